"""A language model on this machine: a tiny random one, in a folder as the hub has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common import engines
from common.errors import NightshiftError
from common.params import parse_request
from tests import chat, media
from worker.conversation.engine import LocalConversation
from worker.conversation.language import Message
from worker.conversation.local import LocalModel
from worker.engine import Artifact, Earlier, Engine, Event, Host, LanguageServer, Work

ASKED = [Message("system", "Be brief."), Message("user", "Does it rain?")]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_weights(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Byte-level tokens without merges; 512 positions."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|system|>", "<|user|>", "<|assistant|>"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", additional_special_tokens=special)
    fast.chat_template = template
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=fast.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("models") / "llm-local")


@pytest.fixture
def model(weights: Path) -> LocalModel:
    return LocalModel("llm-local", weights, torch.device("cpu"))


def ask(model: LocalModel, messages: list[Message], **given: object) -> str:
    options = {"max_tokens": 12, "temperature": None, "check": lambda: None, **given}
    return model.answer(messages, **options).text  # type: ignore[arg-type]


def test_an_answer_is_what_the_network_says_to_the_chat(model: LocalModel, weights: Path) -> None:
    answer = model.answer(ASKED, max_tokens=12, temperature=0, check=lambda: None)
    network = LlamaForCausalLM.from_pretrained(weights)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(weights)
    prompt = tokenizer("<|system|>Be brief.<|end|><|user|>Does it rain?<|end|><|assistant|>", return_tensors="pt")
    made = network.generate(**prompt, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    length = prompt.input_ids.shape[1]
    assert answer.text == tokenizer.decode(made[0, length:], skip_special_tokens=True).strip()
    assert (answer.prompt_tokens, answer.answer_tokens, answer.cut) == (length, made.shape[1] - length, True)


def test_the_same_turn_gets_the_same_answer_and_another_another(model: LocalModel) -> None:
    drawn = ask(model, ASKED, temperature=1.5)
    torch.manual_seed(7)
    assert ask(model, ASKED, temperature=1.5) == drawn
    assert ask(model, [*ASKED[:1], Message("user", "Does it snow?")], temperature=1.5) != drawn


def test_what_does_not_fit_is_refused(model: LocalModel) -> None:
    with pytest.raises(NightshiftError) as caught:
        ask(model, [Message("user", "rain " * 120)])
    assert caught.value.code == "llm_refused" and "512" in caught.value.detail


def test_a_cancel_is_seen_inside_an_answer(model: LocalModel) -> None:
    class Stop(Exception):
        pass

    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 100:
            raise Stop

    with pytest.raises(Stop):
        ask(model, ASKED, max_tokens=80, temperature=0, check=check)


def test_a_folder_without_a_chat_model_is_refused(tmp_path: Path) -> None:
    plain = write_weights(tmp_path / "plain", template=None)
    broken = write_weights(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    for folder, says in ((plain, "chat template"), (broken, ""), (tmp_path / "nowhere", "")):
        with pytest.raises(NightshiftError) as caught:
            LocalModel("llm-local", folder, torch.device("cpu"))
        assert caught.value.code == "weights_invalid" and says in caught.value.detail


class Mute:
    """Speaks without a sound, and remembers what it was to say."""

    name, version = "mute", "1"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.earlier: list[Earlier] = []

    def run(self, work: Work) -> Iterator[Event]:
        self.said.append(work.params.text)  # type: ignore[attr-defined]
        self.earlier += work.earlier
        path = work.scratch / "speech.flac"
        path.write_bytes(b"sound")
        yield Artifact("speech", path, "audio/flac", "speech")

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


def test_a_turn_asks_for_each_engine_when_its_turn_comes(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card may have given the model away meanwhile: it is asked for anew, also by itself."""
    host = Host("cpu", weights.parent, models_on_cpu=True, language_server=LanguageServer("http://nowhere", "x"))
    engine, mute = LocalConversation(host), Mute()
    asked: list[str] = []

    def acquire(name: str) -> Engine:
        asked.append(name)
        return engine if name == engine.name else mute

    params = {"text": "Does it rain?", "max_tokens": 40, "temperature": 1.0}
    request = parse_request({"kind": "conversation", "engine": "llm-local", "params": params})
    work = Work("job_1", request.params, (), tmp_path, acquire=acquire)
    events = list(engine.run(work))
    made = {event.name: event.path for event in events if isinstance(event, Artifact)}
    document = json.loads(made["conversation"].read_text())
    assert document["turns"][0]["spoken"] == mute.said[0]
    assert asked == ["llm-local", "espeak"]
    assert document["provenance"]["engine"] == "llm-local" and engine.memory_bytes() > 0
    assert engines.REGISTRY["llm-local"].lane == "gpu"

    # The next turn hears how the last was said; in another voice it would mislead.
    before = [made["conversation"], made["speech"]]
    for voice, heard in ((None, [Earlier(made["speech"], mute.said[0])]), ("espeak:de", [])):
        folder = tmp_path / str(voice)
        folder.mkdir()
        params = {"text": "Until when?", "max_tokens": 40, "temperature": 1.0, "speech": {"voice": voice}}
        request = parse_request({"kind": "conversation", "engine": "llm-local", "params": params})
        mute.earlier = []
        list(engine.run(Work("job_2", request.params, media.sources(*before), folder, acquire=acquire)))
        assert mute.earlier == heard


def test_the_served_model_needs_no_weights() -> None:
    with chat.served("It rains.") as server:
        from worker.conversation.engine import ServedConversation

        engine = ServedConversation(Host("cpu", Path("/nowhere"), language_server=LanguageServer(server.url, "tiny")))
        assert engine.memory_bytes() == 0
        assert engine.language.answer(ASKED, max_tokens=5, temperature=None, check=lambda: None).text == "It rains."
        assert "temperature" not in server.asked[0]
    with pytest.raises(NightshiftError) as caught:
        ServedConversation(Host("cpu", Path("/nowhere")))
    assert caught.value.code == "engine_not_ready"

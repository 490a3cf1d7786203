"""Every environment variable, read once and typed. Nothing else in the project reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from common.quotas import Quotas
from common.retention import Retention

Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """All settings, each `NIGHTSHIFT_` + its name in capitals.

    A secret may lie in a file: with `NIGHTSHIFT_SECRETS_DIR=/run/secrets`, the file `nightshift_database_url` there
    stands for the variable of that name.
    """

    model_config = SettingsConfigDict(env_prefix="NIGHTSHIFT_", env_ignore_empty=True, extra="ignore", frozen=True)

    # Where things are
    home: Path = Field(Path("~/.nightshift"), description="Folder of the embedded database, files and client settings")
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy address, `postgresql+psycopg://…`; empty: SQLite in `home`"
    )
    broker_url: SecretStr | None = Field(
        None, description="Celery's broker, `redis://…`; empty: workers poll the database"
    )
    broker_prefix: str = Field("nightshift", description="Prefix of queue names and of Celery's keys in the broker")
    s3_endpoint: str | None = Field(None, description="Address of the S3 server as workers and API reach it")
    s3_public_endpoint: str | None = Field(
        None, description="Address of the S3 server as callers reach it, used in presigned links; empty: `s3_endpoint`"
    )
    s3_bucket: str | None = Field(None, description="Bucket for uploads and results; empty: files lie in `home`")
    s3_region: str = Field("us-east-1", description="Region used in signatures")
    s3_access_key: SecretStr | None = Field(None, description="Access key; empty: boto3's own chain")
    s3_secret_key: SecretStr | None = Field(None, description="Secret key")
    s3_input_buckets: Names = Field((), description="Buckets that `s3://` inputs may name, comma-separated")
    s3_output_buckets: Names = Field(
        (), description="Buckets that results of batches may be delivered into, comma-separated"
    )
    models_dir: Path | None = Field(None, description="Folder of model weights; empty: `home`/models")
    hf_token: SecretStr | None = Field(None, description="Token for gated weights on the hub")

    # The API
    host: str = Field("127.0.0.1", description="Address the API listens on")
    port: int = Field(8484, ge=0, le=65535, description="Port the API listens on")
    public_url: str | None = Field(None, description="How callers reach the API; used in links")
    secret_key: SecretStr | None = Field(
        None, description="Signs links and encrypts callback secrets; empty: made once and kept in `home`"
    )
    api_threads: int = Field(16, ge=1, description="Threads of an API process")
    api_processes: int = Field(1, ge=1, description="API processes")
    link_seconds: int = Field(3600, ge=1, description="How long a link to a result lives")
    upload_seconds: int = Field(900, ge=1, description="How long a presigned upload lives")
    max_wait_seconds: int = Field(60, ge=0, description="Longest `Prefer: wait`")

    # Limits on inputs
    max_upload_bytes: int = Field(5_000_000_000, ge=1, description="Largest upload or fetched input, bytes")
    max_duration_seconds: float = Field(12 * 3600.0, gt=0, description="Longest audio, seconds")
    max_channels: int = Field(8, ge=1, description="Most audio channels")
    max_pixels: int = Field(100_000_000, ge=1, description="Largest image, pixels")
    fetch_timeout_seconds: float = Field(1800.0, gt=0, description="Total time to fetch an input, seconds")
    allow_private_hosts: Names = Field(
        (), description="Host names that inputs and callbacks may reach although their addresses are private"
    )

    # The life of a job
    lease_seconds: float = Field(30.0, gt=0, description="A lease without renewal lasts this long")
    heartbeat_seconds: float = Field(10.0, gt=0, description="A worker renews its lease this often")
    cancel_poll_seconds: float = Field(1.0, gt=0, description="A worker looks for a cancel this often")
    stall_seconds: float = Field(600.0, gt=0, description="An engine without progress for this long is ended")
    max_attempts: int = Field(4, ge=1, le=10, description="Attempts of a job before it fails")
    max_crashes: int = Field(3, ge=1, le=10, description="Deaths of its worker before a job fails as poisonous")
    quarantine_seconds: float = Field(
        600.0, gt=0, description="A worker that died on two different jobs in a row gets none for this long"
    )
    retry_base_seconds: float = Field(10.0, gt=0, description="First backoff; doubles with each attempt, with jitter")
    release_ahead: int = Field(2, ge=1, description="Jobs held ready in the queue per worker")
    jobs_together: int = Field(
        4, ge=1, le=32, description="Jobs that a worker does at once with an engine whose batches they can share"
    )
    affinity_seconds: float = Field(
        60.0, ge=0, description="A queued job waits so long at most for others whose engine a card has loaded; 0: none"
    )
    max_waiting_per_key: int = Field(100_000, ge=1, description="Default quota of unfinished jobs of a key")
    max_audio_hours_per_day_per_key: float | None = Field(
        None, ge=0, description="Default quota of hours of audio a key may have done in a day, UTC; empty: any"
    )
    max_bytes_per_key: int | None = Field(
        None, ge=0, description="Default quota of bytes a key may have in the store; empty: any"
    )
    retention_days: float = Field(30.0, gt=0, description="Results and uploads are deleted after this many days")
    retention_warning_days: float = Field(
        3.0, ge=0, description="Nothing is deleted sooner after its owner was told that it will be; 0: nobody is told"
    )
    idempotency_days: float = Field(7.0, gt=0, description="An Idempotency-Key is remembered this many days")

    # Workers and the processes beside them
    worker_name: str | None = Field(None, description="Name of a worker; empty: `cpu0@host`, `gpu0@host` …")
    worker_lanes: Names = Field(
        ("cpu",), description="Lanes a worker serves, comma-separated: cpu, gpu; set by the launcher"
    )
    worker_device: str = Field("cpu", description="Device of a worker, `cpu` or `cuda:0`; set by the launcher")
    worker_memory_bytes: int | None = Field(
        None, ge=1, description="Memory of a worker's card, bytes; set by the launcher"
    )
    cuda_visible_devices: str | None = Field(
        None,
        validation_alias="CUDA_VISIBLE_DEVICES",
        description="CUDA's own variable: the cards that may be used; unset: all",
    )
    worker_engines: Names = Field(
        (), description="Engines this worker runs, comma-separated; empty: all that are ready"
    )
    poll_seconds: float = Field(0.5, gt=0, description="A polling worker looks for work this often")
    tick_seconds: float = Field(1.0, gt=0, description="The scheduler ticks this often")
    rescue_seconds: float = Field(5.0, gt=0, description="Expired leases are looked for this often")
    rering_seconds: float = Field(15.0, gt=0, description="A queued job not claimed after this long is rung again")
    drain_seconds: float = Field(60.0, gt=0, description="A worker told to stop has this long to yield its job")
    scratch_dir: Path | None = Field(None, description="Folder for a worker's temporary files; empty: `home`/scratch")
    extra_engines: Names = Field(
        (), description="Further engines, `module:SPEC` comma-separated, each an EngineSpec of your own"
    )
    block_seconds: float | None = Field(None, gt=0, description="Overrides the block length of every engine (tests)")
    card_memory_fraction: float = Field(0.9, gt=0, le=1, description="Share of a card's memory that models may use")
    models_on_cpu: bool = Field(False, description="Lets engines made for a card run on the CPU")
    compile_models: bool = Field(
        False, description="Compiles SAM-Audio with torch, which takes minutes at a worker's first job"
    )
    sam_audio_backend: Literal["native", "official"] = Field(
        "native", description="`official`: SAM-Audio by the official package, where it is installed"
    )
    sam_audio_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Format of SAM-Audio's matrices; `auto`: bfloat16 where the device has units for it"
    )

    # The language model of conversations
    llm_url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+",
        description="Base address of an OpenAI-like interface, `http://127.0.0.1:11434/v1` for instance",
    )
    llm_model: str | None = Field(None, description="The model to ask there, by the name it has there")
    llm_api_key: SecretStr | None = Field(None, description="Sent there as bearer token; empty: none")
    llm_timeout_seconds: float = Field(300.0, gt=0, description="Total time of one answer, seconds")

    # Flower, which shows the queue to the operator
    flower_basic_auth: SecretStr | None = Field(None, description="Who may look, `user:password`; Flower needs it")
    flower_port: int = Field(5555, ge=0, le=65535, description="Port Flower listens on, at the address `host`")

    # Callbacks
    callback_timeout_seconds: float = Field(15.0, gt=0, description="Total time of one callback try")
    callback_disable_days: float = Field(5.0, gt=0, description="Failing this long disables a callback address")

    log_format: Literal["json", "console"] = Field("console", description="Form of the log lines")
    log_level: str = Field("INFO", description="Least level that is logged")

    @field_validator(
        *("s3_input_buckets", "s3_output_buckets", "allow_private_hosts"),
        *("worker_engines", "worker_lanes", "extra_engines"),
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator(
        *("database_url", "broker_url", "s3_access_key", "s3_secret_key", "hf_token", "secret_key"),
        "llm_api_key",
        "flower_basic_auth",
        mode="after",
    )
    @classmethod
    def _no_empty_secret(cls, value: SecretStr | None) -> SecretStr | None:
        # A secret's file may be empty, and then it counts as not set, as an empty variable does.
        return value or None

    @field_validator("home", "models_dir", "scratch_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else value

    @property
    def database(self) -> str:
        """The database's address; the embedded one where none is set."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.home}/nightshift.db"

    @property
    def broker(self) -> str | None:
        return self.broker_url.get_secret_value() if self.broker_url else None

    @property
    def files(self) -> Path:
        """The folder of the local store."""
        return self.home / "files"

    @property
    def alive_seconds(self) -> float:
        """A process not seen for this long counts as gone."""
        return self.lease_seconds

    @property
    def beat_seconds(self) -> float:
        """A process says this often that it is there."""
        return min(5.0, self.alive_seconds / 4)

    @property
    def quotas(self) -> Quotas:
        """Of a key that has none of its own."""
        return Quotas(self.max_waiting_per_key, self.max_audio_hours_per_day_per_key, self.max_bytes_per_key)

    @property
    def retention(self) -> Retention:
        days = self.retention_days
        return Retention(days * 86400, min(days, self.retention_warning_days) * 86400)

    @property
    def scratch(self) -> Path:
        return self.scratch_dir or self.home / "scratch"

    @property
    def models(self) -> Path:
        return self.models_dir or self.home / "models"


class ClientSettings(BaseSettings):
    """What the command and the Python client read: where the service is and who calls."""

    model_config = SettingsConfigDict(env_prefix="NIGHTSHIFT_", env_ignore_empty=True, extra="ignore", frozen=True)

    url: str | None = Field(None, description="The service's address; empty: the one `nightshift up` left in `home`")
    api_key: SecretStr | None = Field(None, description="The API key; empty: the one `nightshift up` left in `home`")
    home: Path = Field(Path("~/.nightshift"), description="As above")


def load() -> Settings:
    """The settings of this process, from its environment and, where named, a folder of secret files."""
    import os

    given: dict[str, Any] = {}
    if folder := os.environ.get("NIGHTSHIFT_SECRETS_DIR"):
        given["_secrets_dir"] = folder
    # Set but empty it says that no card may be used, while our own variables, when empty, count as not set.
    if (cards := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        given["CUDA_VISIBLE_DEVICES"] = cards
    return Settings(**given)


def table() -> str:
    """Every setting as a Markdown table, for README."""
    rows = ["| variable | default | what it sets |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, tuple):
            shown = ",".join(default)
        else:
            shown = "" if default is None else str(default).removesuffix(".0")
        cell = f"`{shown}`" if shown else ""
        variable = field.validation_alias or f"NIGHTSHIFT_{name.upper()}"
        rows.append(f"| `{variable}` | {cell} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows)

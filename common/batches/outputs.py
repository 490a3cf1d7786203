"""Pure: where the results of a batch belong, by its naming template: for links, downloads and deliveries alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import NightshiftError
from common.naming import Template

if TYPE_CHECKING:
    # The command needs this module, and no database.
    from common.jobs.batch import Batch
    from common.jobs.job import Job
    from common.settings import Settings

# Roles of outputs that are for looking at, left out unless they are asked for.
PICTURES = frozenset({"waveform", "peaks"})


def paths(batch: Batch, template: Template, job: Job) -> list[str]:
    """Where the outputs of a job belong, by the batch's template; no two of a batch are the same."""
    given = {**(job.item or {}), "batch": batch.name, "index": str(job.batch_item), "job": job.id}
    suffix = given.pop("suffix", "")
    outputs = (job.result or {})["outputs"]
    names = []
    for output in outputs:
        stem, _, ending = str(output["filename"]).rpartition(".")
        names.append(template.render(given, stem or output["name"], ending, suffix))
    return names


def targets(batch: Batch, template: Template, job: Job) -> list[str | None]:
    """The `s3://` address that each output of a job is delivered to; None for one that is not."""
    deliver = batch.deliver
    if deliver is None:
        return [None] * len((job.result or {})["outputs"])
    return [
        None if output["role"] in PICTURES and not deliver["pictures"] else deliver["to"] + path
        for output, path in zip((job.result or {})["outputs"], paths(batch, template, job), strict=True)
    ]


def check_bucket(settings: Settings, bucket: str, pointer: str | None = None) -> None:
    """Raises `bucket_forbidden` for a bucket that nothing may be delivered into.

    The service's own is never allowed, even where it is listed: it holds the files of every API key.
    """
    if bucket not in settings.s3_output_buckets or bucket == settings.s3_bucket:
        raise NightshiftError(
            "bucket_forbidden",
            f"The bucket {bucket} is not one that results may be delivered into.",
            hint="The operator lists such buckets in NIGHTSHIFT_S3_OUTPUT_BUCKETS.",
            pointer=pointer,
        )

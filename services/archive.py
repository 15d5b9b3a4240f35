"""The JVM's class archive (application class data sharing): about halves the start of a broker, made once."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from services.errors import ServiceError
from services.install import HOME, KafkaKit, locked, say
from services.kafka import KafkaCluster

_DUMP_S = 120.0  # about 4 s here


def ensure_archive(kit: KafkaKit) -> Path:
    """Path of the archive, made by one training run of a broker when it is not there yet.

    Only a shorter start depends on it: when the training fails that is said, and brokers start without.
    """
    if not kit.archive.exists():
        with locked(HOME / "archive.lock"):
            if not kit.archive.exists():
                _train(kit)
    return kit.archive


def _train(kit: KafkaKit) -> None:
    say("training the class archive, which shortens every later start ...")
    with tempfile.TemporaryDirectory(dir=HOME, prefix="training-") as name:
        folder = Path(name)
        part = folder / "classes.jsa"
        cluster = KafkaCluster(
            folder / "data",
            kit=replace(kit, archive=folder / "none.jsa"),
            jvm_options=[f"-XX:ArchiveClassesAtExit={part}"],
        )
        try:
            with cluster:
                cluster.stop(1, grace_s=_DUMP_S)
            part.rename(kit.archive)
        except (OSError, ServiceError) as error:
            say(f"no class archive, brokers start slower: {error}")

"""A compliance report says what was recorded, what the rules made of it, and proves it; a pack lets others check it alone."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S
from tests.unit.ledgers import signer, trust_of
from tests.unit.readable_ledger import Reading
from tests.unit.stored_ledger import LedgerClock
from tests.unit.test_audit_integrity import Keys

from tallyroll.adapters.crypto import is_signed
from tallyroll.audit.compliance.library import library
from tallyroll.audit.compliance.rules import REVIEWED
from tallyroll.audit.ledger.note import sign
from tallyroll.audit.reading.evidence import Evidence, Packed, verifier
from tallyroll.audit.reading.integrity import Trusted, Verification
from tallyroll.audit.reading.report import ComplianceReport, Reporting
from tallyroll.audit.reading.report_page import report_page
from tallyroll.audit.removal.lost_keys import LostKeys
from tallyroll.audit.verify import Trust, read_pack, verify, verify_pack, verify_proof
from tallyroll.errors import StoreUnavailable

BREACH = {"rule_id": "GDPR-001", "code": "missing_field", "severity": "medium", "fields": ["user_id|agent_id"]}


class Desk:
    """A house, and who reports on it."""

    def __init__(self, folder: Path, *, signs: bool = True) -> None:
        self.house = Reading(folder)
        ledger = self.house.ledger

        async def checkpoint() -> None:
            if signs:
                ledger.checkpoint()

        trusted = Trusted((str(ledger.key),), tuple(str(one.key) for one in ledger.witnesses), 1)
        clock = LedgerClock(ledger)
        verification = Verification(self.house.store, Keys(ledger), trusted, is_signed, clock=clock, checkpoint=checkpoint)
        lost = LostKeys(self.house.store, self.house.ring)
        self.reporting = Reporting(self.house.store, verification, library, lost=lost, keys=trusted.keys, clock=clock)
        self.evidence = Evidence(self.house.store, self.reporting, trusted, signer())

    def report(self, framework: str = "gdpr", *period: datetime, **options: object) -> ComplianceReport:
        return asyncio.run(self.reporting.report(framework, *period, **options))

    def pack(self, path: Path, **options: object) -> Packed:
        return asyncio.run(self.evidence.write(path, "gdpr", **options))


def lively(folder: Path) -> Desk:
    """Six entries under GDPR, one of them in breach, others beside; a read, an erasure, a hold."""
    desk = Desk(folder)
    for number in range(6):
        desk.house.entry(
            "anna-canary", subject=f"cust-{number}-canary", category="data_modification", compliance_frameworks=["gdpr"],
            rule_ids=["GDPR-001"], violations=[BREACH] if number == 4 else [], severity="high" if number == 4 else "info",
        )  # fmt: skip
        desk.house.entry("bert-canary")
    desk.house.entry("auditor-canary", event_type="audit.read", category="audit_system", action="query", purpose="yearly review")
    asyncio.run(desk.house.retention.set_hold(who="counsel-7", why="case 12", subject="cust-1-canary"))
    asyncio.run(desk.house.eraser.erase("cust-2-canary"))
    return desk


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return lively(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def report(desk: Desk) -> ComplianceReport:
    return desk.report()


def test_what_a_report_says(report: ComplianceReport) -> None:
    assert (report["framework"], report["total_events"], report["violations_total"]) == ("gdpr", 6, 1)
    assert report["rules_analyzed"] == sum(rule.framework == "gdpr" for rule in library().rules)
    summary = report["compliance_summary"]["GDPR-001"]
    assert (summary["applicable_events"], summary["violating_events"], summary["compliance_rate_percent"]) == (6, 1, 83.33)
    assert report["compliance_summary"]["GDPR-003"]["compliance_rate_percent"] is None, "nothing to judge is not compliance"
    assert report["overview"]["severity"] == {"high": 1, "info": 5}
    (violation,) = report["violations"]
    assert violation["fields"] == ["user_id|agent_id"]
    assert violation["audit_id"] == "entry-009"
    assert report["integrity_certificate"]["valid"]
    assert report["integrity_certificate"]["public_keys"]
    assert [one["erasure"] for one in report["erasures"]] == ["request", "done"]
    assert report["holds"][0]["who"] == "counsel-7"
    assert {one["key"] for one in report["key_events"]} == {"writer", "rule_set"}
    assert report["reads"]["total"] == 1
    assert report["reads"]["newest"][0]["purpose"] == "yearly review"
    assert report["review_record"] == {"total": 0, "newest": []}
    assert json.loads(json.dumps(report)) == report


def test_advice_follows_from_what_was_found(desk: Desk, report: ComplianceReport) -> None:
    assert any("lack some that a rule requires" in one for one in report["recommendations"])
    assert "Nobody has checked the citations" in report["recommendations"][-1]
    assert not any("does not verify" in one for one in report["recommendations"])
    assert any(REVIEWED in one for one in desk.report("hipaa")["recommendations"]) == any(
        rule.review_interval for rule in library().rules if rule.framework == "hipaa"
    )


def test_a_population_is_a_stretch_without_holes(desk: Desk, report: ComplianceReport) -> None:
    population = report["population"]["GDPR-001"]
    (stretch,) = population["stretches"]
    assert (stretch["entries"], population["gaps"], population["entries"]) == (6, [], 6)
    assert stretch["records"] == stretch["last"] - stretch["first"] + 1 == 11
    assert desk.house.records()[stretch["first"]].env is not None


def test_the_period_includes_both_ends(desk: Desk) -> None:
    times = [datetime.fromisoformat(one["timestamp"]) for one in desk.report(sample=6)["sample"]]
    found = desk.report("gdpr", min(times), max(times) - timedelta(microseconds=1))
    assert found["total_events"] == 5
    assert found["report_period"]["start"] == min(times).astimezone(UTC).isoformat()
    assert desk.report("gdpr", max(times), max(times))["total_events"] == 1
    with pytest.raises(ValueError, match="start_time"):
        desk.report("gdpr", datetime(2027, 1, 1))  # noqa: DTZ001  # that is the point
    with pytest.raises(ValueError, match="fun"):
        desk.report("fun")


def test_the_sample_is_drawn_by_nobody_and_proves_itself(desk: Desk, report: ComplianceReport) -> None:
    assert report["sample_seed"] == report["integrity_certificate"]["snapshot"]["root"]
    assert len(report["sample"]) == 5
    trust = Trust(today=0, keys=tuple(desk.house.keys))
    for one in report["sample"]:
        proven = verify_proof(one["proof"].encode(), trust, check=is_signed)
        assert proven.valid
        assert proven.coverage["proven"]["env"]["audit_id"] == one["audit_id"]
    again = [one["audit_id"] for one in desk.report(seed="1")["sample"]]
    assert again == [one["audit_id"] for one in desk.report(seed="1")["sample"]]
    draws = {tuple(one["audit_id"] for one in desk.report(seed=str(number), sample=2)["sample"]) for number in range(6)}
    assert len(draws) > 1
    assert desk.report(sample=0)["sample"] == []


def test_a_tampered_ledger_is_reported_as_such(tmp_path: Path) -> None:
    desk = lively(tmp_path)
    desk.house.ledger.change(0, 3, lambda record: record._replace(env=b'{"audit_id":"x"}'))
    found = desk.report()
    assert not found["integrity_certificate"]["valid"]
    assert "does not verify (env_hash)" in found["recommendations"][0]
    assert "does not verify" in report_page(found)


class Page(HTMLParser):
    """Which elements a page has, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "action", "data", "srcset", "background")]


def test_the_page_loads_nothing_and_runs_nothing(report: ComplianceReport) -> None:
    page = Page(report_page(report))
    assert "script" not in page.tags
    assert page.loads == []
    assert "GDPR-001" in report_page(report)


def test_what_others_wrote_stays_text(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    evil = "</script><script>alert(1)</script>"
    breach = {"rule_id": "GDPR-001", "code": evil, "severity": "low", "fields": [evil]}
    desk.house.entry(event_type=evil, action=evil, compliance_frameworks=["gdpr"], rule_ids=["GDPR-001"], violations=[breach])
    asyncio.run(desk.house.retention.set_hold(who=evil, why=evil))
    assert "script" not in Page(report_page(desk.report())).tags
    desk.pack(tmp_path / "pack.zip")
    with zipfile.ZipFile(tmp_path / "pack.zip") as pack:
        viewer = pack.read("viewer.html").decode()
        assert Page(viewer).tags.count("script") == 2
        assert Page(viewer).loads == []
        assert "<script>alert" not in viewer


@pytest.fixture(scope="module")
def packed(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    done = desk.pack(folder / "pack.zip", sample=3)
    with zipfile.ZipFile(folder / "pack.zip") as pack:
        pack.extractall(folder / "pack")
        assert done.files == len(pack.namelist())
    assert done.entries == 6
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    return folder / "pack"


def run_alone(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Without site packages, without the environment: nothing of ours can be found."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "verify.pyz", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={},
        timeout=PATIENCE_S,
    )


@pytest.mark.slow
def test_an_auditor_with_plain_python_checks_the_pack(packed: Path, desk: Desk) -> None:
    probe = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import tallyroll"], cwd=packed, capture_output=True, text=True, check=False, env={}
    )
    assert "ModuleNotFoundError" in probe.stderr, "the isolation holds"
    done = run_alone(packed, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["valid"]
    assert found["coverage"]["proofs_of_records"] == 3
    assert found["coverage"]["witnessed_size"]
    assert "compare them" in done.stderr
    assert str(desk.house.ledger.key) in done.stderr
    (proof, *_) = sorted((packed / "proofs").iterdir())
    done = run_alone(packed, str(proof.relative_to(packed)), "--key", str(desk.house.ledger.key))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict   intact" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("ledger/00000.records", lambda raw: raw.replace(b"file.read", b"file.send", 1), "env_hash"),
        ("report.json", lambda raw: raw.replace(b"violations_total", b"violations_tolal"), "archive"),
        ("ledger/00000.records", lambda raw: raw[:-200], "size"),
    ],
)
def test_a_pack_that_was_changed_does_not_pass(
    packed: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes], code: str
) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(packed, folder)
    raw = (folder / name).read_bytes()
    assert change(raw) != raw
    (folder / name).write_bytes(change(raw))
    done = run_alone(folder, "--json")
    assert done.returncode == 1
    assert code in json.loads(done.stdout)["counts"]


@pytest.mark.slow
def test_no_changed_bit_of_a_pack_is_missed(packed: Path, tmp_path: Path) -> None:
    import random

    folder = tmp_path / "pack"
    shutil.copytree(packed, folder)
    pack = read_pack(folder)
    assert pack is not None
    trust = Trust(today=40_000, keys=pack.keys, witnesses=pack.witnesses, quorum=pack.quorum)
    assert verify_pack(pack, trust, check=is_signed)[0].valid
    draw = random.Random(1)  # noqa: S311  # to be repeated
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in [*files, *draw.choices(files, k=60)]:
        raw = bytearray(path.read_bytes())
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        before = path.read_bytes()
        path.write_bytes(raw)
        again = read_pack(folder)
        assert again is None or verify_pack(again, trust, check=is_signed)[0].broken, path.name
        path.write_bytes(before)


def _list_emptied(folder: Path) -> None:
    (folder / "SHA256SUMS").write_bytes(b"")


def _file_added(folder: Path) -> None:
    (folder / "proofs" / "another.txt").write_bytes(b"x")


def _line_left_out(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if "report.json" not in line))


def _endless(folder: Path) -> None:
    (folder / "report.json").unlink()
    (folder / "report.json").symlink_to("/dev/zero")


def _pipe(folder: Path) -> None:
    (folder / "entries.csv").unlink()
    os.mkfifo(folder / "entries.csv")


@pytest.mark.slow
@pytest.mark.parametrize("change", [_list_emptied, _file_added, _line_left_out, _endless, _pipe])
def test_files_that_the_list_does_not_vouch_for_are_found_and_none_is_read_for_ever(
    packed: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(packed, folder)
    change(folder)
    done = run_alone(folder, "--json")
    assert done.returncode == 1
    assert set(json.loads(done.stdout)["counts"]) == {"archive"}


def _list_made_anew(folder: Path) -> None:
    """As somebody would who has the pack in hand, and no key."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    names = [name for name in (line.partition("  ")[2] for line in lines) if (folder / name).exists()]
    (folder / "SHA256SUMS").write_text("".join(f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names))


def _report_exchanged(folder: Path) -> None:
    said = (folder / "report.json").read_text()
    (folder / "report.json").write_text(said.replace('"violations_total": 1', '"violations_total": 0'))
    assert (folder / "report.json").read_text() != said


def _proof_taken_away(folder: Path) -> None:
    next((folder / "proofs").iterdir()).unlink()


def _note_taken_away(folder: Path) -> None:
    _report_exchanged(folder)
    (folder / "SHA256SUMS.note").unlink()


def _note_of_a_stranger(folder: Path) -> None:
    _report_exchanged(folder)
    _list_made_anew(folder)
    title, ledger, _ = (folder / "SHA256SUMS.note").read_text().split("\n")[:3]
    text = f"{title}\n{ledger}\n{sha256((folder / 'SHA256SUMS').read_bytes()).hexdigest()}\n"
    (folder / "SHA256SUMS.note").write_bytes(sign(text, [signer(seed=b"a stranger")]).packed())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_report_exchanged, "archive"),
        (_proof_taken_away, "archive"),
        (_note_taken_away, "archive"),
        (_note_of_a_stranger, "note_signature"),
    ],
)
def test_who_makes_the_list_of_a_pack_anew_is_found_out(packed: Path, tmp_path: Path, change: Callable[[Path], None], code: str) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(packed, folder)
    change(folder)
    _list_made_anew(folder)
    done = run_alone(folder, "--json")
    assert (done.returncode, json.loads(done.stdout)["counts"]) == (1, {code: 1})


@pytest.mark.slow
def test_the_signed_list_of_another_pack_does_not_fit(packed: Path, desk: Desk, tmp_path: Path) -> None:
    desk.pack(tmp_path / "other.zip", sample=1)
    folder = tmp_path / "pack"
    shutil.copytree(packed, folder)
    with zipfile.ZipFile(tmp_path / "other.zip") as other:
        (folder / "SHA256SUMS.note").write_bytes(other.read("SHA256SUMS.note"))
    assert json.loads(run_alone(folder, "--json").stdout)["counts"] == {"archive": 1}


@pytest.mark.slow
def test_who_reads_no_further_changes_no_verdict(packed: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "verify.pyz"],
        cwd=packed,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        env={},
        timeout=PATIENCE_S,
    )
    os.close(writing)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


@pytest.mark.slow
def test_who_trusts_no_key_is_told_of_hashes_alone(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(packed, folder)
    (folder / "SHA256SUMS.note").unlink()
    done = run_alone(folder, "--json", "--no-signatures")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["coverage"]["signatures_checked"] is False


@pytest.mark.slow
def test_a_file_that_somebody_put_beside_the_pack_is_named_and_harms_nothing(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(packed, folder)
    (folder / "state.json").write_text("{}")
    done = run_alone(folder, "--json")
    assert (done.returncode, json.loads(done.stdout)["counts"]) == (0, {"unknown_file": 1})


def test_no_personal_data_and_no_key_leaves_in_a_pack(packed: Path, desk: Desk, report: ComplianceReport) -> None:
    everything = b"".join(path.read_bytes() for path in packed.rglob("*") if path.is_file())
    for secret in (b"canary", b"203.0.113.9", b"salary", *desk.house.ledger.k0.values()):
        assert secret not in everything
    assert "canary" not in json.dumps(report) + report_page(report)
    assert b"GDPR-001" in everything


def test_parts_in_clear_are_withheld_and_the_verifier_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.house.entry("anna-canary", plain=True, compliance_frameworks=["gdpr"])
    done = desk.pack(tmp_path / "pack.zip")
    assert done.withheld == 2
    raw = b""
    with zipfile.ZipFile(tmp_path / "pack.zip") as pack:
        pack.extractall(tmp_path / "pack")
        raw = b"".join(pack.read(name) for name in pack.namelist())
    assert b"canary" not in raw
    trust = trust_of(desk.house.ledger)
    assert set(verify(tmp_path / "pack" / "ledger", trust, check=is_signed)[0].counts) == {"part_missing"}, "unless one agrees to it"
    agreed = Trust(today=trust.today, keys=trust.keys, withheld=True)
    assert verify(tmp_path / "pack" / "ledger", agreed, check=is_signed)[0].counts == {"withheld": 2}
    desk.pack(tmp_path / "whole.zip", plain=True)
    with zipfile.ZipFile(tmp_path / "whole.zip") as pack:
        assert any(b"canary" in pack.read(name) for name in pack.namelist())


def test_sealed_parts_cannot_be_withheld(desk: Desk) -> None:
    from tests.unit.ledgers import Opened, report_on

    files = Opened.of(desk.house.ledger.export()).change(0, 1, lambda record: record._replace(parts=(None, None))).build()
    trust = trust_of(desk.house.ledger)
    assert "part_missing" in report_on(files, Trust(today=trust.today, keys=trust.keys, withheld=True)).counts


def test_the_verifier_is_the_same_bytes_each_time() -> None:
    assert verifier() == verifier()


def test_nothing_is_packed_before_anything_is_signed_and_nothing_half_made_is_left(tmp_path: Path) -> None:
    desk = Desk(tmp_path, signs=False)
    with pytest.raises(StoreUnavailable, match="signed"):
        desk.pack(tmp_path / "pack.zip")
    assert [path.name for path in tmp_path.iterdir() if "pack" in path.name] == []

"""The verifier as a program and as a judge: where it finds something, what it says it rests on, what no input makes it do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.ledgers import ORIGIN, Opened, codes, fill, new_ledger, report_on, signer, standard, trust_of, with_core

from tallyroll.adapters.crypto import is_signed
from tallyroll.audit import verify as verifier
from tallyroll.audit.ledger import exporting, layout, note
from tallyroll.audit.ledger.chain import Draft, Writer
from tallyroll.audit.ledger.layout import META, Kind, Record, pack_record
from tallyroll.audit.ledger.note import Checkpoint
from tallyroll.audit.verify import Trust, open_archive, read_state, verify, verify_files, write_state
from tallyroll.audit.verify.__main__ import main
from tallyroll.ports import Enrolment
from tallyroll.testing.ledger import REGISTRAR, MemoryLedger

Attack = Callable[[Opened, int], None]


def changed(change: Callable[[Record], Record]) -> Attack:
    return lambda attack, index: attack.change(0, index, change) and None


def swap(attack: Opened, index: int) -> None:
    kept = attack.records[0]
    kept[index], kept[index + 1] = kept[index + 1], kept[index]


ATTACKS: dict[str, Attack] = {
    "env_hash": changed(lambda record: record._replace(env=b"{}")),
    "part_hash": changed(lambda record: record._replace(parts=(b"x",))),
    "mac": changed(lambda record: record._replace(mac=b"x" * 32)),
    "mac_missing": changed(lambda record: record._replace(mac=bytes(32))),
    "env_missing": changed(lambda record: record._replace(env=None)),
    "part_missing": changed(lambda record: record._replace(parts=(None,))),
    "link": changed(lambda record: with_core(record, prev=bytes(32))),
    "core": changed(lambda record: record._replace(core=b"AUD2" + record.core[4:])),
    "kind": changed(lambda record: with_core(record, kind=Kind.HOLD)),
    "duplicate": lambda attack, index: attack.records[0].insert(index, attack.records[0][index]),
    "frame": changed(lambda record: record._replace(core=record.core + bytes(61))),
}


@pytest.mark.parametrize("code", ATTACKS)
def test_a_finding_says_where(code: str) -> None:
    ledger, files = standard()
    attack = Opened.of(files)
    index = attack.find(0, writer=b"writer-a", kind=Kind.ENTRY)[4]
    seq = attack.core(0, index).seq
    ATTACKS[code](attack, index)
    found = [finding for finding in report_on(attack.build(), trust_of(ledger)).findings if finding.code == code]
    assert (found[0].partition, found[0].index) == (0, index + (code == "duplicate"))
    assert found[0].seq == (None if code == "frame" else seq)


def test_a_swap_of_two_writers_is_narrowed_down_to_two_notes() -> None:
    ledger, files = standard()
    attack = Opened.of(files)
    index = attack.find(0, writer=b"writer-a", kind=Kind.ENTRY)[3]
    swap(attack, index)
    (found,) = report_on(attack.build(), trust_of(ledger)).findings
    noted = sorted(ledger.partitions[0].noted)
    before = max((size for size in noted if size <= index), default=0)
    after = min(size for size in noted if size > index)
    assert found.index == after
    assert found.detail == f"the records from {before} to {after} are not those noted"


# What other systems got wrong


def test_a_live_file_is_no_false_alarm() -> None:
    """Records that came after the last note, the last of them half written."""
    ledger = fill(new_ledger(), 10)
    files = ledger.export()
    later = fill(new_ledger(), 10)
    later.write(later.writer(b"nobody"), 0, b"{}")
    frame = pack_record(ledger.partitions[0].records[-1])
    files["00000.records"] += len(frame).to_bytes(4) + frame + len(frame).to_bytes(4) + frame[:50]
    report = report_on(files, trust_of(ledger))
    assert report.valid
    assert report.coverage["beyond_notes"] == 1
    assert report.coverage["bytes_beyond_notes"] == 4 + len(frame) + 54


def test_a_wrong_key_does_not_pass() -> None:
    ledger, files = standard()
    wrong = {key: sha256(k0).digest() for key, k0 in ledger.k0.items()}
    report = report_on(files, replace(trust_of(ledger), mac_keys=wrong))
    assert set(report.counts) == {"key_mismatch"}
    assert report.coverage["macs_checked"] == 0


def test_a_ledger_that_was_cut_and_went_on_is_longer_but_not_the_same() -> None:
    seen = verify_files(fill(new_ledger(), 20).export(), trust_of(fill(new_ledger(), 20)))[1]
    other = fill(new_ledger(), 40, action=b"after the cut")
    assert other.export() != fill(new_ledger(), 40).export()
    assert not codes(other.export(), trust_of(other))
    assert {"split_view", "root"} & codes(other.export(), trust_of(other, remembered=seen))
    same = fill(new_ledger(), 40)
    assert not codes(same.export(), trust_of(same, remembered=seen))


def test_a_new_epoch_names_the_heads_of_the_one_before() -> None:
    ledger = new_ledger()
    first = ledger.enrol(b"writer-a")
    for _ in range(5):
        ledger.write(first, 0, b"{}")
    second = ledger.enrol(b"writer-a", 2, (1, first.heads))
    ledger.write(second, 0, b"{}")
    ledger.wait(60)
    ledger.beat(second, 0)
    ledger.checkpoint()
    assert not codes(ledger.export(), trust_of(ledger)), "an epoch that is succeeded need not be closed"
    attack = Opened.of(ledger.export())
    last = [index for index in attack.find(0, writer=b"writer-a") if attack.core(0, index).chain.epoch == 1][-1]
    del attack.records[0][last]
    assert "head_missing" in codes(attack.resign(signer()).build(), trust_of(ledger, quorum=0))


def test_verifying_in_the_wrong_order_is_noticed() -> None:
    ledger, files = standard()
    attack = Opened.of(files)
    attack.records[0].reverse()
    assert {"sequence", "order", "root"} <= codes(attack.build(), trust_of(ledger))


class Second(Writer):
    """Begins the chains of another writer once more, and commits to no key."""

    def __init__(self, other: Writer, ledger: MemoryLedger) -> None:
        super().__init__(ledger.log_id, Enrolment(other.writer, 1, bytes(32), "", ledger.now_us), ledger.cipher, rule_set="1")
        self._genesis = layout.write_json({"commitment": "00" * 32, "token": "", "rule_set": "1", "previous": None})


def test_a_chain_with_a_second_genesis_or_another_commitment() -> None:
    ledger = new_ledger()
    anna = ledger.enrol(b"writer-a")
    ledger.k0[anna.writer, 1] = sha256(b"another").digest()
    other = Second(anna, ledger)
    ledger.offer(*ledger.seal(other, 0, Draft(Kind.ENTRY, b"{}")))
    ledger.checkpoint()
    assert "genesis" in codes(ledger.export(), trust_of(ledger, macs=False))


# Notes and keys


def test_a_note_by_another_key_or_by_nobody() -> None:
    ledger, files = standard()
    thief = signer(seed=b"thief")
    forged = note.sign(ledger.notes[-1].text, [thief]).packed()
    for raw in (forged, ledger.notes[-1]._replace(signatures=ledger.notes[-1].signatures[1:]).packed()):
        attack = {**files, "meta.notes": b"".join(exporting.notes_file([raw]))}
        assert codes(attack, trust_of(ledger, quorum=0)) == {"note_signature"}
    assert codes(files, replace(trust_of(ledger), keys=(str(note.NoteKey(ORIGIN, 1, thief.public)),))) == {"note_signature"}
    assert codes(files, replace(trust_of(ledger), keys=("nonsense",))) >= {"state"}
    other = str(note.NoteKey("example.com/other", 1, thief.public))
    assert "note" in codes(files, replace(trust_of(ledger), keys=(other,)))


def test_a_rotated_key_counts_once_the_old_one_has_announced_it() -> None:
    ledger = fill(new_ledger(), 10)
    ledger.rotate(signer(seed=b"second"))
    ledger.checkpoint()
    assert not codes(ledger.export(), trust_of(ledger))
    unannounced = fill(new_ledger(), 10)
    unannounced.signers.append(signer(seed=b"second"))
    unannounced.checkpoint()
    assert "note_signature" in codes(unannounced.export(), trust_of(unannounced, quorum=0))


def test_without_signatures_the_report_says_so() -> None:
    ledger, files = standard()
    report = report_on(files, Trust(today=trust_of(ledger).today))
    assert report.valid
    assert report.coverage["signatures_checked"] is False
    assert report.coverage["macs_checked"] == report.coverage["writer_epochs_with_keys"] == 0
    assert report.coverage["witnessed_size"] is None


def test_too_few_witnesses() -> None:
    ledger, files = standard()
    assert codes(files, trust_of(ledger, quorum=2)) == {"quorum"}


def test_notes_rise() -> None:
    ledger, files = standard()
    twice = b"".join(exporting.notes_file([signed.packed() for signed in (*ledger.notes, ledger.notes[-1])]))
    assert codes({**files, "meta.notes": twice}, trust_of(ledger)) == {"note"}


# Memory


def test_what_is_remembered_is_read_as_it_was_written() -> None:
    ledger, files = standard()
    seen = verify_files(files, trust_of(ledger))[1]
    assert read_state(write_state(seen).encode()) == tuple(seen)
    assert {checkpoint.origin for checkpoint in seen} == {ORIGIN, f"{ORIGIN}/0", f"{ORIGIN}/1", f"{ORIGIN}/65535"}
    assert not codes(files, trust_of(ledger, remembered=seen))
    odd = [verifier.Checkpoint('a "quoted" \\ name', 1, bytes(32))]
    assert read_state(write_state(odd).encode()) == tuple(odd)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"{}", b'{"format":"tallyroll-ledger-state/1"}', b'{"format":"tallyroll-ledger-state/2","checkpoints":[]}',
        *(
            b'{"format":"tallyroll-ledger-state/1","checkpoints":[%s]}' % row
            for row in (b"1", b"[1]", b'["o",-1,"A"]', b'["o",true,"AA=="]', b'["o",1,5]')
        ),
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_read_is_no_empty_memory(raw: bytes) -> None:
    assert read_state(raw) is None


def test_a_note_from_elsewhere() -> None:
    ledger, files = standard()
    trust = trust_of(ledger)
    assert not codes(files, replace(trust, notes=(ledger.notes[0].packed(),)))
    assert codes(files, replace(trust, notes=(b"nonsense",))) == {"state"}
    unsigned = Checkpoint(ORIGIN, 1, bytes(32)).text() + "\n"
    assert codes(files, replace(trust, notes=((unsigned + "— x AAAAAAA=\n").encode(),))) == {"state"}
    elsewhere = verifier.Checkpoint("example.com/other", 1, bytes(32))
    assert codes(files, trust_of(ledger, remembered=[elsewhere])) == {"state"}


# Folders, zips, the program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "export"
    path.mkdir()
    for name, raw in standard()[1].items():
        (path / name).write_bytes(raw)
    return path


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in standard()[1].items():
            archive.writestr(name, raw)
    return path


def test_a_folder_and_a_zip_are_read_as_the_files_they_hold(folder: Path, zipped: Path) -> None:
    ledger, files = standard()
    expected = verify_files(files, trust_of(ledger), check=is_signed)
    assert verify(folder, trust_of(ledger), check=is_signed) == expected
    assert verify(zipped, trust_of(ledger), check=is_signed) == expected
    (folder / "notes \x1b[31m.txt").write_text("not of the format")
    report, _ = verify(folder, trust_of(ledger), check=is_signed)
    assert set(report.counts) == {"unknown_file"}
    assert report.findings[0].detail == "notes ?[31m.txt", "a name from a hostile file does not reach the terminal as it is"
    with pytest.raises(FileNotFoundError):
        open_archive(folder / "nothing")


@pytest.mark.slow
def test_a_broken_zip_never_crashes_it(zipped: Path) -> None:
    whole, draw = zipped.read_bytes(), Random(1)  # noqa: S311  # to be repeated
    for number in range(300):
        raw = bytearray(whole)
        raw[draw.randrange(len(raw))] ^= draw.randrange(1, 256)
        zipped.write_bytes(raw[: draw.randrange(len(raw))] if number % 3 == 0 else raw)
        files, findings = open_archive(zipped)
        assert set(files) == set(standard()[1]) or findings.counts


def arguments(folder: Path) -> list[str]:
    ledger, _ = standard()
    return [str(folder), "--key", str(ledger.key), "--witness", str(ledger.witnesses[0].key), "--quorum", "1", "--today", "2027-01-16"]


@pytest.mark.slow
def test_the_program_answers_with_its_exit_code_and_remembers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, _ = standard()
    state, keys = tmp_path / "state.json", tmp_path / "keys"
    keys.write_text("".join(f"{writer.hex()}/{epoch} {k0.hex()}\n" for (writer, epoch), k0 in ledger.k0.items()) + "\n")
    given_arguments = [*arguments(folder), "--state", str(state), "--mac-keys", str(keys)]
    assert main(given_arguments) == 0
    assert "verdict   intact\n" in capsys.readouterr().out
    remembered = state.read_bytes()
    assert main([*given_arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["valid"]
    assert report["coverage"]["remembered"]
    assert report["coverage"]["macs_checked"] == report["coverage"]["entries"]
    (folder / "00000.records").write_bytes((folder / "00000.records").read_bytes()[:-200])
    assert main(given_arguments) == 1
    assert "broken    size (1)" in capsys.readouterr().out
    assert state.read_bytes() == remembered, "a broken ledger is not remembered"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--quorum", "2"],
        ["--state", "EMPTY"],
        ["--mac-keys", "EMPTY/x"],
        ["--today", "yesterday"],
        ["--note", "nowhere"],
        ["--mac-keys", "WORDS"],
    ],
)
def test_wrong_use_is_no_verdict(folder: Path, tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "EMPTY").write_bytes(b"{}")
    (tmp_path / "WORDS").write_text("no hex")
    here = [str(tmp_path / word) if word.isupper() or "/" in word else word for word in wrong]
    with pytest.raises(SystemExit) as ended:
        main([*arguments(folder), *here])
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


def test_who_checks_no_signatures_has_to_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(folder)])
    assert main([str(folder), "--no-signatures", "--today", "2027-01-16"]) == 0
    assert "signatures_checked       false" in capsys.readouterr().out


@pytest.mark.slow
def test_copied_alone_it_runs_without_anything_installed(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(Path(verifier.__file__).parent, alone / "verify", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-m", "verify", *arguments(folder)], cwd=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "verdict   intact" in done.stdout


# Whatever the files hold


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([*standard()[1], "00003.notes", "65534.records", "99999.records"]), st.binary(max_size=300)))
def test_whatever_the_files_hold_the_answer_is_a_report(files: dict[str, bytes]) -> None:
    ledger, good = standard()
    report_on(files, trust_of(ledger))
    assert report_on({**good, **files}, trust_of(ledger)) is not None


MAGICS = [b"AUDLREC1", b"AUDLLEA1", b"AUDLNOT1", b"AUDLPRF1"]
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 1 << 70), st.text(max_size=40), st.just("00" * 32), st.just("00" * 16)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
FIELDS = [
    "heads", "previous", "epoch", "key", "writer", "commitment", "opened_us", "heartbeat_s", "classes", "erasure", "request", "handles",
    "parts",
    "retention", "partition", "start", "end", "retention_class", "peaks", "size", "keep_until_day", "hold", "id", "handle", "gap", "vkey",
]  # fmt: skip
WORDS = ["writer", "checkpoint", "rule_set", "done", "request", "body", "personal", "prune", "set", "released"]
envs = st.dictionaries(st.sampled_from(FIELDS), st.one_of(st.sampled_from(WORDS), values), max_size=10)


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]), envs), max_size=4))
def test_whatever_a_steering_record_says_the_answer_is_a_report(drafts: list[tuple[int, dict[str, object]]]) -> None:
    """By a registrar that is admitted, and signs: a hostile insider."""
    ledger = new_ledger()
    for kind, env in drafts:
        for partition in (0, layout.REGISTRY):
            records = ledger.seal(ledger._registrar, partition, Draft(Kind(kind), layout.write_json(env)))
            target = ledger.partitions[partition]
            for item in records:
                ledger.append(target, target.ledger.judge(item.record, {(REGISTRAR.ljust(16, b"\0"), 1)}))
    ledger.checkpoint()
    report_on(ledger.export(), trust_of(ledger))


def test_a_hostile_length_costs_nothing() -> None:
    ledger, files = standard()
    for magic in MAGICS:
        for tail in (
            b"\xff" * 40,
            b"\xff\xff" + b"\xff" * 8 + b"\x40" + b"\0" * 32 * 64,
            b"\0\0" + (1 << 63).to_bytes(8) + b"\1" + bytes(32),
        ):
            for name in files:
                report_on({**files, name: magic + tail}, trust_of(ledger))


def test_a_bad_base64_in_a_note_is_no_other_way_to_write_it() -> None:
    ledger, files = standard()
    raw = files["meta.notes"]
    encoded = b64encode(ledger.meta.root())
    loose = encoded[:-2] + bytes((encoded[-2] + 1,)) + b"="
    assert codes({**files, "meta.notes": raw.replace(encoded, loose)}, trust_of(ledger)) & {"note", "quorum", "size"}
    assert META == 65_534

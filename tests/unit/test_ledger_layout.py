"""Bytes of a record: what is packed is read again, what is no record is refused, and known answers hold."""

import hmac
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.adapters.crypto import AesGcm
from tallyroll.audit.ledger import layout
from tallyroll.audit.ledger.chain import Part, Ratchet, group_key, part_key
from tallyroll.audit.ledger.layout import ChainId, Kind, PartType, Record
from tallyroll.errors import SealBroken, Undecodable

CHAIN = ChainId(bytes(range(16)), 3, b"writer".ljust(16, b"\0"), 7)
u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
digests = st.binary(min_size=32, max_size=32)
chains = st.builds(ChainId, st.binary(min_size=16, max_size=16), u16, st.binary(min_size=16, max_size=16), u32)
bodies = st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=5)


def core_of(chain: ChainId = CHAIN, **fields: object) -> bytes:
    marks = [layout.pack_mark(PartType.SUBJECT, bytes(16), layout.nonce_of(part, 1), b"ct") for part in range(fields.pop("parts", 0))]
    given_fields = {
        "seq": 1, "ts_us": 2, "mac_epoch": 3, "retention_class": 4, "keep_until_day": 5, "prev": bytes(32), "env_hash": bytes(32),
    }  # fmt: skip
    return layout.pack_core(Kind.ENTRY, chain.packed(), **{**given_fields, **fields}, marks=marks)


def test_a_core_has_the_published_lengths() -> None:
    assert len(core_of()) == layout.CORE_BYTES == 135
    assert len(core_of(parts=2)) == 135 + 2 * 61
    assert core_of()[:6] == b"AUD1\x01\x00"


@given(chains, u64, u64, u32, u16, u32, digests, digests)
def test_a_core_is_read_as_it_was_packed(  # noqa: PLR0913  # the fields of a core
    chain: ChainId, seq: int, ts_us: int, mac_epoch: int, retention_class: int, day: int, prev: bytes, env_hash: bytes
) -> None:
    fields = {
        "seq": seq, "ts_us": ts_us, "mac_epoch": mac_epoch, "retention_class": retention_class, "keep_until_day": day, "prev": prev,
        "env_hash": env_hash,
    }  # fmt: skip
    core = layout.unpack_core(core_of(chain, **fields, parts=1))
    assert {name: getattr(core, name) for name in fields} == fields
    assert core.chain == chain
    assert core.parts[0].ct_hash == sha256(b"ct").digest()


@given(bodies)
def test_a_record_is_read_as_it_was_packed(parts: list[bytes | None]) -> None:
    record = Record(core_of(parts=len(parts)), b"{}", tuple(parts), bytes(32))
    assert layout.unpack_record(layout.pack_record(record)) == record
    assert layout.unpack_record(layout.pack_record(record._replace(env=None))) == record._replace(env=None)


@given(bodies, st.data())
def test_no_other_bytes_mean_the_same_record(parts: list[bytes | None], data: st.DataObject) -> None:
    packed = layout.pack_record(Record(core_of(parts=len(parts)), b"{}", tuple(parts), bytes(32)))
    changed = data.draw(
        st.one_of(
            st.integers(0, len(packed) - 1).map(lambda at: packed[:at]),
            st.binary(min_size=1, max_size=9).map(lambda tail: packed + tail),
            st.tuples(st.integers(0, len(packed) - 1), st.integers(1, 255)).map(
                lambda flip: packed[: flip[0]] + bytes((packed[flip[0]] ^ flip[1],)) + packed[flip[0] + 1 :]
            ),
        )
    )
    try:
        read = layout.unpack_record(changed)
    except Undecodable:
        return
    assert layout.pack_record(read) == changed != packed


@given(st.binary(max_size=300))
def test_what_is_no_record_is_refused(raw: bytes) -> None:
    for read in (layout.unpack_record, layout.unpack_core, layout.read_json):
        try:
            read(raw)
        except Undecodable:
            continue


@pytest.mark.parametrize("raw", [b'{"a":1,"a":2}', b"NaN", b"[1e999]"[:0] + b"Infinity", b"1" * 30, b"[" * 100_000, b"{", b"\xff"])
def test_json_is_read_strictly(raw: bytes) -> None:
    with pytest.raises(Undecodable):
        layout.read_json(raw)


def test_the_ratchet_is_hmac_sha256() -> None:
    k0 = sha256(b"k0").digest()
    ratchet = Ratchet(k0)
    assert ratchet.mac(b"text") == hmac.digest(k0, b"text", "sha256")
    ratchet.advance(2)
    k2 = hmac.digest(hmac.digest(k0, b"aud1/ratchet", "sha256"), b"aud1/ratchet", "sha256")
    assert ratchet.mac(b"text") == hmac.digest(k2, b"text", "sha256")
    ratchet.advance(1)
    assert ratchet.epoch == 2, "never back"
    with pytest.raises(ValueError, match="enrol anew"):
        ratchet.advance(layout.MAX_MAC_EPOCH + 1)


def test_the_key_of_a_part_is_hkdf_expand_and_is_another_in_every_chain() -> None:
    dek = sha256(b"dek").digest()
    assert part_key(dek, CHAIN) == HKDFExpand(SHA256(), 32, layout.dek_info(CHAIN)).derive(dek)
    others = [CHAIN._replace(partition=4), CHAIN._replace(epoch=8), CHAIN._replace(writer=bytes(16))]
    assert len({part_key(dek, chain) for chain in (CHAIN, *others)}) == 4


def test_a_group_key_needs_every_member_in_any_order() -> None:
    anna, bert = (b"a" * 16, b"1" * 32), (b"b" * 16, b"2" * 32)
    assert group_key([anna, bert]) == group_key([bert, anna])
    assert group_key([anna, bert]) != group_key([anna]) != group_key([bert])


def test_aes_256_gcm_known_answer() -> None:
    sealed = AesGcm().seal(bytes(32), bytes(12), bytes(16), b"")
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"


def test_a_seal_opens_only_as_it_was_made() -> None:
    aes, key, nonce = AesGcm(), bytes(32), layout.nonce_of(0, 1)
    aad = layout.aad_of(CHAIN.packed(), 1, 0, PartType.SUBJECT)
    sealed = aes.seal(key, nonce, b"text", aad)
    assert aes.open(key, nonce, sealed, aad) == b"text"
    for other in (
        (bytes(31) + b"1", nonce, sealed, aad),
        (key, layout.nonce_of(1, 1), sealed, aad),
        (key, nonce, sealed[:-1] + bytes((sealed[-1] ^ 1,)), aad),
        (key, nonce, sealed, layout.aad_of(CHAIN.packed(), 2, 0, PartType.SUBJECT)),
    ):
        with pytest.raises(SealBroken):
            aes.open(*other)
    with pytest.raises(ValueError, match="32 bytes"):
        aes.seal(bytes(16), nonce, b"text", aad)


def test_keys_show_nowhere() -> None:
    secret = sha256(b"secret").digest()
    part = Part(PartType.SUBJECT, bytes(16), secret, b"personal text")
    for shown in (repr(part), repr(Ratchet(secret))):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
        assert "personal" not in shown

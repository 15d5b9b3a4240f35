//! SHA-256 (FIPS 180-4), and HMAC of it (RFC 2104). By the instructions for it, where the processor has them.

/// Bytes of a digest.
pub(crate) const DIGEST: usize = 32;
/// Bytes that are taken in together.
pub(crate) const BLOCK: usize = 64;

pub(crate) type Digest = [u8; DIGEST];

const FIRST: [u32; 8] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

#[rustfmt::skip]
const ROUNDS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// A hash that is not finished. A copy of it goes on from the same bytes.
#[derive(Clone)]
pub(crate) struct Sha256 {
    state: [u32; 8],
    /// The beginning of a block that is not whole.
    rest: [u8; BLOCK],
    length: u64,
}

impl Sha256 {
    pub(crate) fn new() -> Sha256 {
        Sha256 { state: FIRST, rest: [0; BLOCK], length: 0 }
    }

    /// The hash of some pieces, one behind the other.
    pub(crate) fn of(pieces: &[&[u8]]) -> Digest {
        let mut hash = Sha256::new();
        for piece in pieces {
            hash.update(piece);
        }
        hash.finish()
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        let filled = self.length as usize % BLOCK;
        self.length += bytes.len() as u64;
        if filled > 0 {
            let (taken, left) = bytes.split_at(bytes.len().min(BLOCK - filled));
            self.rest[filled..filled + taken.len()].copy_from_slice(taken);
            if filled + taken.len() < BLOCK {
                return;
            }
            compress(&mut self.state, &self.rest);
            bytes = left;
        }
        let whole = bytes.len() - bytes.len() % BLOCK;
        compress(&mut self.state, &bytes[..whole]);
        self.rest[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
    }

    pub(crate) fn finish(mut self) -> Digest {
        let filled = self.length as usize % BLOCK;
        let bits = self.length * 8;
        self.rest[filled] = 0x80;
        self.rest[filled + 1..].fill(0);
        if filled >= BLOCK - 8 {
            compress(&mut self.state, &self.rest);
            self.rest.fill(0);
        }
        self.rest[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
        compress(&mut self.state, &self.rest);
        let mut digest = [0; DIGEST];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    fn wipe(&mut self) {
        for word in &mut self.state {
            // SAFETY: it is borrowed. As a plain write it could be left out, for nobody reads it any more.
            unsafe { std::ptr::write_volatile(word, 0) };
        }
        for byte in &mut self.rest {
            // SAFETY: the same.
            unsafe { std::ptr::write_volatile(byte, 0) };
        }
    }
}

/// HMAC-SHA256 under one key, which is forgotten in the end.
pub(crate) struct Mac {
    inner: Sha256,
    outer: Sha256,
}

impl Mac {
    /// From the key, filled up with zeros to a block.
    pub(crate) fn new(key: &[u8; BLOCK]) -> Mac {
        let mut mac = Mac { inner: Sha256::new(), outer: Sha256::new() };
        let mut padded = Sha256::new();
        for (hash, pad) in [(&mut mac.inner, 0x36), (&mut mac.outer, 0x5c)] {
            for (byte, of_key) in padded.rest.iter_mut().zip(key) {
                *byte = of_key ^ pad;
            }
            hash.update(&padded.rest);
        }
        padded.wipe();
        mac
    }

    pub(crate) fn of(&self, pieces: &[&[u8]]) -> Digest {
        let (mut inner, mut outer) = (self.inner.clone(), self.outer.clone());
        for piece in pieces {
            inner.update(piece);
        }
        outer.update(&inner.finish());
        outer.finish()
    }
}

impl Drop for Mac {
    fn drop(&mut self) {
        self.inner.wipe();
        self.outer.wipe();
    }
}

/// A digest in hex.
pub(crate) fn hex(digest: &Digest) -> [u8; 2 * DIGEST] {
    let mut text = [0; 2 * DIGEST];
    for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    text
}

/// Takes in whole blocks.
#[inline]
fn compress(state: &mut [u32; 8], blocks: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if quick::is_there() {
        // SAFETY: the processor was asked.
        return unsafe { quick::compress(state, blocks) };
    }
    compress_plainly(state, blocks);
}

fn compress_plainly(state: &mut [u32; 8], blocks: &[u8]) {
    for block in blocks.chunks_exact(BLOCK) {
        let mut words = [0; 64];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        }
        for at in 16..64 {
            let (early, late) = (words[at - 15], words[at - 2]);
            let first = early.rotate_right(7) ^ early.rotate_right(18) ^ early >> 3;
            let second = late.rotate_right(17) ^ late.rotate_right(19) ^ late >> 10;
            words[at] = words[at - 16].wrapping_add(first).wrapping_add(words[at - 7]).wrapping_add(second);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
        for (word, constant) in words.iter().zip(ROUNDS) {
            let choice = e & f ^ !e & g;
            let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let first = h.wrapping_add(sum).wrapping_add(choice).wrapping_add(constant).wrapping_add(*word);
            let majority = a & b ^ a & c ^ b & c;
            let second = (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22)).wrapping_add(majority);
            (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(first), c, b, a, first.wrapping_add(second));
        }
        for (word, made) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = word.wrapping_add(made);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod quick {
    use super::{BLOCK, ROUNDS};
    use std::arch::x86_64::*;

    pub(super) fn is_there() -> bool {
        is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
    }

    /// The same by the instructions for it.
    ///
    /// # Safety
    /// The processor has SHA, SSSE3 and SSE4.1.
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    pub(super) unsafe fn compress(state: &mut [u32; 8], blocks: &[u8]) {
        // SAFETY: the processor has what is needed. Loads and stores are of the 16 bytes at a quarter of a block, of the round
        // constants and of the state, which are borrowed, and need no alignment.
        unsafe {
            let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
            let cdab = _mm_shuffle_epi32(_mm_loadu_si128(state.as_ptr().cast()), 0xb1);
            let efgh = _mm_shuffle_epi32(_mm_loadu_si128(state.as_ptr().add(4).cast()), 0x1b);
            let mut abef = _mm_alignr_epi8(cdab, efgh, 8);
            let mut cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
            for block in blocks.chunks_exact(BLOCK) {
                let before = (abef, cdgh);
                let mut words = [_mm_setzero_si128(); 4];
                for (at, word) in words.iter_mut().enumerate() {
                    *word = _mm_shuffle_epi8(_mm_loadu_si128(block.as_ptr().add(at * 16).cast()), swap);
                }
                for round in 0..16 {
                    let [first, second, third, fourth] = words;
                    let mixed = _mm_add_epi32(first, _mm_loadu_si128(ROUNDS.as_ptr().add(round * 4).cast()));
                    cdgh = _mm_sha256rnds2_epu32(cdgh, abef, mixed);
                    abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(mixed, 0x0e));
                    let next = _mm_add_epi32(_mm_sha256msg1_epu32(first, second), _mm_alignr_epi8(fourth, third, 4));
                    words = [second, third, fourth, _mm_sha256msg2_epu32(next, fourth)];
                }
                abef = _mm_add_epi32(abef, before.0);
                cdgh = _mm_add_epi32(cdgh, before.1);
            }
            let feba = _mm_shuffle_epi32(abef, 0x1b);
            let dchg = _mm_shuffle_epi32(cdgh, 0xb1);
            _mm_storeu_si128(state.as_mut_ptr().cast(), _mm_blend_epi16(feba, dchg, 0xf0));
            _mm_storeu_si128(state.as_mut_ptr().add(4).cast(), _mm_alignr_epi8(dchg, feba, 8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(digest: Digest) -> String {
        String::from_utf8(hex(&digest).to_vec()).unwrap()
    }

    /// FIPS 180-4 and NIST CAVP, SHA256ShortMsg and SHA256LongMsg.
    #[test]
    fn known_answers() {
        let million = vec![b'a'; 1_000_000];
        let cases: [(&[u8], &str); 6] = [
            (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (&[0xd3], "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
                "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
            ),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ];
        for (message, expected) in cases {
            assert_eq!(shown(Sha256::of(&[message])), expected);
        }
    }

    /// RFC 4231, cases 1 and 2.
    #[test]
    fn known_macs() {
        let cases: [(&[u8], &[u8], &str); 2] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ];
        for (key, message, expected) in cases {
            let mut block = [0; BLOCK];
            block[..key.len()].copy_from_slice(key);
            assert_eq!(shown(Mac::new(&block).of(&[message])), expected);
        }
    }

    #[test]
    fn both_ways_and_all_pieces_agree() {
        let message: Vec<u8> = (0..700u32).map(|number| (number * 7 % 251) as u8).collect();
        for length in 0..300 {
            let whole = Sha256::of(&[&message[..length]]);
            for cut in [0, 1, length / 3, length / 2, length.saturating_sub(1), length] {
                assert_eq!(Sha256::of(&[&message[..cut.min(length)], &message[cut.min(length)..length]]), whole);
            }
        }
        for blocks in 0..10 {
            let (mut one, mut other) = (FIRST, FIRST);
            compress(&mut one, &message[..blocks * BLOCK]);
            compress_plainly(&mut other, &message[..blocks * BLOCK]);
            assert_eq!(one, other);
        }
    }
}

//! Where the strings of a record begin and end, found ahead of everything else, 64 bytes at a time.
//!
//! In JSON every quote that is not escaped begins or ends a string, so their places in order are all that a walk over the
//! members needs. That they are used in order, as strings and as nothing else, is for the walk to check.

use crate::{text, Odd, Plain};

/// So many bytes are told of by one word.
pub(crate) const BLOCK: usize = 64;

/// The quotes of one record, an even number of them: a bit for each of its bytes.
#[derive(Default)]
pub(crate) struct Quotes {
    bits: Vec<u64>,
}

impl Quotes {
    /// The bits, as of the last `find`: the lowest of the first word is the first byte.
    #[inline(always)]
    pub(crate) fn bits(&self) -> &[u64] {
        &self.bits
    }

    /// Looks at a record. Gives whether strings have escapes.
    ///
    /// Odd: not UTF-8, a string without an end, a control character or a wrong escape in one.
    #[inline(always)]
    pub(crate) fn find(&mut self, record: &[u8]) -> Plain<bool> {
        self.bits.clear();
        let mut seen = block::Seen::new();
        let mut odd = 0; // has an odd number of bits where all words together have one
        let blocks = record.chunks_exact(BLOCK);
        let rest = blocks.remainder();
        for bytes in blocks {
            let bits = seen.quotes(bytes.try_into().map_err(|_| Odd)?);
            odd ^= bits;
            self.bits.push(bits);
        }
        if !rest.is_empty() {
            let bits = seen.quotes(&last(rest));
            odd ^= bits;
            self.bits.push(bits);
        }
        if seen.beyond_ascii() && std::str::from_utf8(record).is_err() {
            return Err(Odd);
        }
        let escapes = seen.special() && self.find_slowly(record, &mut odd)?;
        if odd.count_ones() & 1 != 0 {
            return Err(Odd);
        }
        Ok(escapes)
    }

    /// The same for a record with backslashes or control characters somewhere.
    #[cold]
    #[inline(never)]
    fn find_slowly(&mut self, record: &[u8], odd: &mut u64) -> Plain<bool> {
        *odd = 0;
        let (mut inside, mut escapes) = (false, false);
        let mut next = 0; // what lies before it has been looked at
        for (number, bytes) in record.chunks(BLOCK).enumerate() {
            let base = number * BLOCK;
            let mut bits = match bytes.try_into() {
                Ok(whole) => block::special_or_quotes(whole),
                Err(_) => block::special_or_quotes(&last(bytes)),
            };
            let mut quotes = 0;
            while bits != 0 {
                let bit = bits & bits.wrapping_neg();
                let place = base + bits.trailing_zeros() as usize;
                bits ^= bit;
                if place < next {
                    continue;
                }
                match record[place] {
                    b'"' => {
                        quotes |= bit;
                        inside = !inside;
                    }
                    b'\\' if inside => {
                        next = place + text::escape(&record[place..])?.1;
                        escapes = true;
                    }
                    _ if inside => return Err(Odd),
                    _ => {} // between strings: the walk knows what may stand there
                }
            }
            self.bits[number] = quotes;
            *odd ^= quotes;
        }
        Ok(escapes)
    }
}

/// The end of a record, filled up with what is nothing.
#[inline(always)]
fn last(bytes: &[u8]) -> [u8; BLOCK] {
    let mut block = [b' '; BLOCK];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

#[cfg(target_arch = "x86_64")]
mod block {
    use super::BLOCK;
    use std::arch::x86_64::*;

    /// What there was in some blocks, beside quotes.
    pub(super) struct Seen {
        special: __m128i,
        all: __m128i,
    }

    #[inline(always)]
    fn load(bytes: &[u8; BLOCK], part: usize) -> __m128i {
        let bytes: &[u8; 16] = bytes[part * 16..part * 16 + 16].try_into().expect("a quarter of a block");
        // SAFETY: 16 bytes are read of 16 that are borrowed; the load needs no alignment; SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    impl Seen {
        #[inline(always)]
        pub(super) fn new() -> Seen {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { Seen { special: _mm_setzero_si128(), all: _mm_setzero_si128() } }
        }

        /// A bit for each quote of a block.
        #[inline(always)]
        pub(super) fn quotes(&mut self, bytes: &[u8; BLOCK]) -> u64 {
            let mut bits = 0;
            for part in 0..4 {
                let some = load(bytes, part);
                // SAFETY: SSE2 is part of x86-64; nothing here touches memory.
                unsafe {
                    self.all = _mm_or_si128(self.all, some);
                    self.special = _mm_or_si128(self.special, special(some));
                    let quotes = _mm_movemask_epi8(_mm_cmpeq_epi8(some, _mm_set1_epi8(b'"' as i8)));
                    bits |= u64::from(quotes as u32) << (part * 16);
                }
            }
            bits
        }

        /// Whether there was a backslash or a control character.
        #[inline(always)]
        pub(super) fn special(&self) -> bool {
            // SAFETY: SSE2 is part of x86-64; nothing here touches memory.
            unsafe { _mm_movemask_epi8(self.special) != 0 }
        }

        /// Whether there was a byte that is no ASCII.
        #[inline(always)]
        pub(super) fn beyond_ascii(&self) -> bool {
            // SAFETY: SSE2 is part of x86-64; nothing here touches memory.
            unsafe { _mm_movemask_epi8(self.all) != 0 }
        }
    }

    #[inline(always)]
    fn special(some: __m128i) -> __m128i {
        // SAFETY: SSE2 is part of x86-64; nothing here touches memory.
        unsafe {
            let escapes = _mm_cmpeq_epi8(some, _mm_set1_epi8(b'\\' as i8));
            _mm_or_si128(escapes, _mm_cmpeq_epi8(_mm_min_epu8(some, _mm_set1_epi8(0x1f)), some))
        }
    }

    /// A bit for each quote, backslash and control character of a block.
    pub(super) fn special_or_quotes(bytes: &[u8; BLOCK]) -> u64 {
        let mut bits = 0;
        for part in 0..4 {
            let some = load(bytes, part);
            // SAFETY: SSE2 is part of x86-64; nothing here touches memory.
            let found = unsafe { _mm_movemask_epi8(_mm_or_si128(special(some), _mm_cmpeq_epi8(some, _mm_set1_epi8(b'"' as i8)))) };
            bits |= u64::from(found as u32) << (part * 16);
        }
        bits
    }
}

/// The same for other processors, eight bytes at a time.
#[cfg(not(target_arch = "x86_64"))]
mod block {
    use super::BLOCK;

    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);

    /// What there was in some blocks, beside quotes.
    pub(super) struct Seen {
        special: u64,
        all: u64,
    }

    impl Seen {
        pub(super) fn new() -> Seen {
            Seen { special: 0, all: 0 }
        }

        /// A bit for each quote of a block.
        #[inline(always)]
        pub(super) fn quotes(&mut self, bytes: &[u8; BLOCK]) -> u64 {
            bits(bytes, |some| {
                self.all |= some;
                self.special |= special(some);
                are(some, b'"')
            })
        }

        /// Whether there was a backslash or a control character.
        pub(super) fn special(&self) -> bool {
            self.special != 0
        }

        /// Whether there was a byte that is no ASCII.
        pub(super) fn beyond_ascii(&self) -> bool {
            self.all & !LOW != 0
        }
    }

    /// A bit for each quote, backslash and control character of a block.
    pub(super) fn special_or_quotes(bytes: &[u8; BLOCK]) -> u64 {
        bits(bytes, |some| special(some) | are(some, b'"'))
    }

    /// A bit for each byte of which `found` gives the highest.
    #[inline(always)]
    fn bits(bytes: &[u8; BLOCK], mut found: impl FnMut(u64) -> u64) -> u64 {
        bytes.chunks_exact(8).enumerate().fold(0, |bits, (place, some)| {
            let found = found(u64::from_le_bytes(some.try_into().expect("eight bytes"))) >> 7;
            // Each of the bits, eight apart, meets one of the factor's, seven apart, in a place of its own of the highest byte.
            bits | found.wrapping_mul(0x0102_0408_1020_4080) >> 56 << (place * 8)
        })
    }

    #[inline(always)]
    fn special(some: u64) -> u64 {
        are(some, b'\\') | are(some & u64::from_ne_bytes([0xe0; 8]), 0)
    }

    /// The highest bit of each byte that is this one.
    #[inline(always)]
    fn are(some: u64, one: u8) -> u64 {
        let other = some ^ u64::from_ne_bytes([one; 8]);
        !(((other & LOW) + LOW) | other | LOW)
    }
}

//! Texts as numbers: each distinct one has a code, in the order of their first appearance.

use std::hash::{BuildHasher, RandomState};

const FIRST: usize = 1 << 10;
/// Of room for texts: what a scan of unusual ones took beyond this is given back.
const KEPT: usize = 1 << 24;

#[derive(Clone, Copy, Default)]
struct Entry {
    hash: u32,
    /// Of the text plus one; 0 where there is none.
    code: u32,
}

/// The distinct texts of one scan. Its hash has a secret, so that no choice of texts makes it slow.
pub(crate) struct Names {
    secret: [u64; 3],
    entries: Vec<Entry>,
    blob: Vec<u8>,
    ends: Vec<i64>,
}

impl Names {
    pub(crate) fn new() -> Names {
        let random = RandomState::new();
        let secret = [random.hash_one(1), random.hash_one(2) | 1, random.hash_one(3) | 1];
        Names { secret, entries: vec![Entry::default(); FIRST], blob: Vec::new(), ends: Vec::new() }
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        if self.entries.len() > FIRST && self.ends.len() * 16 < self.entries.len() {
            self.entries = vec![Entry::default(); self.entries.len() / 2];
        } else {
            self.entries.fill(Entry::default());
        }
        self.ends.clear();
        self.blob.clear();
        self.blob.shrink_to(KEPT);
    }

    /// All texts, a line end behind each, which is no part of it.
    pub(crate) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Where each of them ends.
    pub(crate) fn ends(&self) -> &[i64] {
        &self.ends
    }

    /// The text of a code that was given.
    #[inline(always)]
    pub(crate) fn text(&self, code: u32) -> Option<&[u8]> {
        let code = code as usize;
        let end = *self.ends.get(code)?;
        let start = if code == 0 { 0 } else { self.ends[code - 1] + 1 };
        self.blob.get(start as usize..end as usize)
    }

    /// The code of a text.
    #[inline(always)]
    pub(crate) fn code(&mut self, text: &[u8]) -> u32 {
        let hash = self.hash(text);
        self.place(text, hash).unwrap_or_else(|free| self.add(text, hash, free))
    }

    /// The code of a text that has one.
    #[inline(always)]
    pub(crate) fn find(&self, text: &[u8]) -> Option<u32> {
        self.place(text, self.hash(text)).ok()
    }

    /// The code of a text, or the place that it would get.
    #[inline(always)]
    fn place(&self, text: &[u8], hash: u64) -> Result<u32, usize> {
        let mask = self.entries.len() - 1;
        let mut place = (hash >> 32) as usize & mask;
        loop {
            let entry = self.entries[place];
            if entry.code == 0 {
                return Err(place);
            }
            if entry.hash == hash as u32 && self.text(entry.code - 1) == Some(text) {
                return Ok(entry.code - 1);
            }
            place = (place + 1) & mask;
        }
    }

    #[inline(never)]
    fn add(&mut self, text: &[u8], hash: u64, place: usize) -> u32 {
        let code = self.ends.len() as u32;
        self.blob.extend_from_slice(text);
        self.ends.push(self.blob.len() as i64);
        self.blob.push(b'\n');
        self.entries[place] = Entry { hash: hash as u32, code: code + 1 };
        if self.ends.len() * 2 > self.entries.len() {
            self.grow();
        }
        code
    }

    #[cold]
    fn grow(&mut self) {
        let mut entries = vec![Entry::default(); self.entries.len() * 4];
        let mask = entries.len() - 1;
        for code in 0..self.ends.len() as u32 {
            let hash = self.hash(self.text(code).unwrap_or_default());
            let mut place = (hash >> 32) as usize & mask;
            while entries[place].code != 0 {
                place = (place + 1) & mask;
            }
            entries[place] = Entry { hash: hash as u32, code: code + 1 };
        }
        self.entries = entries;
    }

    /// Folded products of 16 bytes each, as wyhash has them.
    #[inline(always)]
    pub(crate) fn hash(&self, text: &[u8]) -> u64 {
        let [seed, one, two] = self.secret;
        let mut state = seed ^ text.len() as u64;
        let length = text.len();
        let (a, b) = if length >= 16 {
            let mut at = 0;
            while at + 16 < length {
                state = fold(word(text, at) ^ one, word(text, at + 8) ^ state);
                at += 16;
            }
            (word(text, length - 16), word(text, length - 8))
        } else if length >= 8 {
            (word(text, 0), word(text, length - 8))
        } else if length >= 4 {
            (half(text, 0), half(text, length - 4))
        } else {
            (text.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0)
        };
        fold(fold(a ^ one, b ^ state), two ^ length as u64)
    }
}

#[inline(always)]
fn word(text: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(text[at..at + 8].try_into().expect("eight bytes"))
}

#[inline(always)]
fn half(text: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(text[at..at + 4].try_into().expect("four bytes")))
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

//! A place in a record, and the steps that go on from it: what every reader of records shares.

use std::slice;

use crate::number::{self, Number};
use crate::quotes::{Quotes, BLOCK};
use crate::{Odd, Plain};

/// Objects and lists inside each other; what is deeper is odd.
pub(crate) const DEEPEST: usize = 64;

/// Where a string stands, without its quotes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// See the module.
pub(crate) struct Cursor<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
    /// The quotes of a block that have not been reached, where it begins, and the blocks behind it.
    quotes: u64,
    block: usize,
    blocks: slice::Iter<'a, u64>,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a record whose quotes have just been found.
    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8], quotes: &'a Quotes) -> Cursor<'a> {
        let bits = quotes.bits();
        Cursor { bytes, at: 0, quotes: bits.first().copied().unwrap_or(0), block: 0, blocks: bits.get(1..).unwrap_or(&[]).iter() }
    }

    /// The byte here; 0 at the end of the data.
    #[inline(always)]
    pub(crate) fn here(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// The next byte that is no white space; 0 at the end of the data.
    #[inline(always)]
    pub(crate) fn token(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(one) if *one > b' ' => return *one,
                Some(one) if is_blank(*one) => self.at += 1,
                _ => return 0,
            }
        }
    }

    #[inline(always)]
    pub(crate) fn expect(&mut self, token: u8) -> Plain<()> {
        if self.token() != token {
            return Err(Odd);
        }
        self.at += 1;
        Ok(())
    }

    /// A string that begins here.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Plain<Span> {
        let start = self.quote()?;
        if start != self.at {
            return Err(Odd);
        }
        let end = self.quote()?;
        self.at = end + 1;
        Ok(Span { start: start + 1, end })
    }

    /// Where the next quote is.
    #[inline(always)]
    fn quote(&mut self) -> Plain<usize> {
        while self.quotes == 0 {
            self.quotes = *self.blocks.next().ok_or(Odd)?;
            self.block += BLOCK;
        }
        let place = self.block + self.quotes.trailing_zeros() as usize;
        self.quotes &= self.quotes - 1;
        Ok(place)
    }

    #[inline(always)]
    pub(crate) fn literal(&mut self, word: &[u8]) -> Plain<()> {
        let end = self.at + word.len();
        if self.bytes.get(self.at..end) != Some(word) {
            return Err(Odd);
        }
        self.at = end;
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn number(&mut self) -> Plain<Number> {
        let number = number::read(self.bytes, self.at)?;
        self.at = number.end;
        Ok(number)
    }

    /// What follows a member or an item: whether another does.
    #[inline(always)]
    pub(crate) fn more(&mut self, closing: u8) -> Plain<bool> {
        let token = self.token();
        self.at += 1;
        if token == b',' {
            Ok(true)
        } else if token == closing {
            Ok(false)
        } else {
            Err(Odd)
        }
    }

    #[inline(always)]
    pub(crate) fn text(&self, span: Span) -> Plain<&'a [u8]> {
        self.bytes.get(span.start..span.end).ok_or(Odd)
    }

    /// Whether nothing but white space is left.
    #[inline(always)]
    pub(crate) fn is_over(&self) -> bool {
        self.bytes.get(self.at..).is_some_and(|rest| rest.iter().all(|one| is_blank(*one)))
    }

    /// Goes past a value, as strictly as past one that is looked at. `name` sees the names of members at any depth.
    #[inline(always)]
    pub(crate) fn skip(&mut self, depth: usize, name: &mut impl FnMut(&'a [u8]) -> Plain<()>) -> Plain<()> {
        match self.here() {
            b'"' => self.string().map(|_| ()),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            b'{' | b'[' => self.skip_inside(depth + 1, name),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => Err(Odd),
        }
    }

    #[inline(never)]
    fn skip_inside(&mut self, depth: usize, name: &mut impl FnMut(&'a [u8]) -> Plain<()>) -> Plain<()> {
        if depth > DEEPEST {
            return Err(Odd);
        }
        let is_object = self.here() == b'{';
        let closing = if is_object { b'}' } else { b']' };
        self.at += 1;
        if self.token() == closing {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.token();
            if is_object {
                let span = self.string()?;
                name(self.text(span)?)?;
                self.expect(b':')?;
                self.token();
            }
            self.skip(depth, name)?;
            if !self.more(closing)? {
                return Ok(());
            }
        }
    }
}

/// Asks for the beginning of a record that will be read soon.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn fetch(bytes: &[u8]) {
    use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
    for line in bytes.chunks(64).take(32) {
        // SAFETY: SSE is part of x86-64; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn fetch(_: &[u8]) {}

#[inline(always)]
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\t' | b'\r')
}

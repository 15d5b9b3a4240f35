//! The walk over the members of records.

use std::slice;

use crate::moment::Moments;
use crate::names::Names;
use crate::number::{self, Number};
use crate::quotes::{Quotes, BLOCK};
use crate::spec::{Spec, Take, Value, REQUIRED, SKIPPED};
use crate::{text, Odd, Plain};

const DEEPEST: usize = 64;
const ENVELOPE: usize = 0;
const NONE: i32 = -1;

/// Columns that a scan fills, with room for `n` records each; what they hold is said at `abi::Out`.
pub(crate) struct Columns<'a> {
    pub(crate) n: usize,
    pub(crate) times: &'a mut [i64],
    pub(crate) numbers: &'a mut [i64],
    pub(crate) prints: &'a mut [i64],
    pub(crate) texts: &'a mut [i32],
    pub(crate) rows: &'a mut [i32],
    pub(crate) values: &'a mut [f64],
    pub(crate) counts: &'a mut [i64],
}

impl Columns<'_> {
    /// Takes back the numbers of the last record, of which there is one at most in each slot.
    fn forget(&mut self, row: usize) {
        for (slot, count) in self.counts.iter_mut().enumerate() {
            if *count > 0 && self.rows[slot * self.n + *count as usize - 1] == row as i32 {
                *count -= 1;
            }
        }
    }
}

/// A spec and the room that scans for it take, used again and again.
pub(crate) struct Scanner {
    spec: Spec,
    names: Names,
    quotes: Quotes,
    moments: Moments,
    /// Of each text slot the code that it had last; beyond every code while it had none.
    last: Vec<u32>,
    /// Of each member that is looked for the last record that had it, counted from 1.
    met: Vec<u32>,
    unescaped: Vec<u8>,
    ids: Vec<u8>,
}

impl Scanner {
    pub(crate) fn new(spec: Spec) -> Scanner {
        let (last, met) = (vec![u32::MAX; spec.texts], vec![0; spec.takes.len()]);
        Scanner {
            spec,
            names: Names::new(),
            quotes: Quotes::default(),
            moments: Moments::default(),
            last,
            met,
            unescaped: Vec::new(),
            ids: Vec::new(),
        }
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// The ids of the last scan, a line end behind each.
    pub(crate) fn ids(&self) -> &[u8] {
        &self.ids
    }

    /// Fills the columns, for which there is room, and gives how many records it has read: all, or up to the first that is odd.
    pub(crate) fn scan<'a>(&mut self, records: impl ExactSizeIterator<Item = &'a [u8]> + Clone, columns: &mut Columns) -> usize {
        self.names.clear();
        self.ids.clear();
        self.last.fill(u32::MAX);
        self.met.fill(0);
        columns.counts.fill(0);
        let count = records.len();
        for slot in columns.texts.chunks_exact_mut(columns.n) {
            slot[..count].fill(NONE);
        }
        let mut ahead = records.clone().skip(1); // the processor sees no order in where records lie: a fifth of a scan was spent waiting
        for (row, bytes) in records.enumerate() {
            if let Some(bytes) = ahead.next() {
                fetch(bytes);
            }
            let ids = self.ids.len();
            if self.record(bytes, row, columns).is_err() {
                self.ids.truncate(ids);
                columns.forget(row);
                return row;
            }
        }
        count
    }

    #[inline(always)]
    fn record(&mut self, bytes: &[u8], row: usize, columns: &mut Columns) -> Plain<()> {
        let escapes = self.quotes.find(bytes)?;
        columns.numbers[row] = 0;
        let mut walk = Walk {
            bytes,
            at: 0,
            quotes: self.quotes.bits().first().copied().unwrap_or(0),
            block: 0,
            blocks: self.quotes.bits().get(1..).unwrap_or(&[]).iter(),
            escapes,
            row,
            required: 0,
            spec: &mut self.spec,
            names: &mut self.names,
            moments: &mut self.moments,
            last: &mut self.last,
            met: &mut self.met,
            unescaped: &mut self.unescaped,
            ids: &mut self.ids,
            columns,
        };
        walk.expect(b'{')?;
        walk.envelope(ENVELOPE, 1)?;
        let rest = bytes.get(walk.at..).ok_or(Odd)?;
        if walk.required != REQUIRED || !rest.iter().all(|one| is_blank(*one)) {
            return Err(Odd);
        }
        Ok(())
    }
}

struct Walk<'a, 'b> {
    bytes: &'a [u8],
    at: usize,
    /// The quotes of a block that have not been reached, where it begins, and the blocks behind it.
    quotes: u64,
    block: usize,
    blocks: slice::Iter<'a, u64>,
    escapes: bool,
    row: usize,
    required: usize,
    spec: &'a mut Spec,
    names: &'a mut Names,
    moments: &'a mut Moments,
    last: &'a mut [u32],
    met: &'a mut [u32],
    unescaped: &'a mut Vec<u8>,
    ids: &'a mut Vec<u8>,
    columns: &'a mut Columns<'b>,
}

/// Where a string stands, without its quotes.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Walk<'_, '_> {
    /// The next byte that is no white space; 0 at the end of the data.
    #[inline(always)]
    fn token(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(one) if *one > b' ' => return *one,
                Some(one) if is_blank(*one) => self.at += 1,
                _ => return 0,
            }
        }
    }

    #[inline(always)]
    fn expect(&mut self, token: u8) -> Plain<()> {
        if self.token() != token {
            return Err(Odd);
        }
        self.at += 1;
        Ok(())
    }

    /// A string that begins here.
    #[inline(always)]
    fn string(&mut self) -> Plain<Span> {
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
    fn literal(&mut self, word: &[u8]) -> Plain<()> {
        let end = self.at + word.len();
        if self.bytes.get(self.at..end) != Some(word) {
            return Err(Odd);
        }
        self.at = end;
        Ok(())
    }

    #[inline(always)]
    fn number(&mut self) -> Plain<Number> {
        let number = number::read(self.bytes, self.at)?;
        self.at = number.end;
        Ok(number)
    }

    /// What follows a member or an item: whether another does.
    #[inline(always)]
    fn more(&mut self, closing: u8) -> Plain<bool> {
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

    /// The members of an object whose brace has been read.
    #[inline(always)]
    fn members(&mut self, node: usize, depth: usize, take: impl Fn(&mut Self, usize, usize) -> Plain<()>) -> Plain<()> {
        if depth > DEEPEST {
            return Err(Odd);
        }
        if self.token() == b'}' {
            self.at += 1;
            return Ok(());
        }
        let mut last = self.spec.members.before(node);
        loop {
            self.token();
            let name = self.string()?;
            if self.escapes && self.has_escapes(name) {
                return Err(Odd);
            }
            self.expect(b':')?;
            self.token();
            let member;
            (last, member) = self.spec.members.find(node, last, self.bytes, name.start, name.end);
            match member {
                SKIPPED => self.skip(depth)?,
                member => {
                    let member = member as usize;
                    let record = self.row as u32 + 1;
                    if self.met[member] == record {
                        return Err(Odd);
                    }
                    self.met[member] = record;
                    take(self, member, depth)?;
                }
            }
            if !self.more(b'}')? {
                return Ok(());
            }
        }
    }

    fn envelope(&mut self, node: usize, depth: usize) -> Plain<()> {
        self.members(node, depth, Self::envelope_member)
    }

    fn payload(&mut self, node: usize, depth: usize) -> Plain<()> {
        self.members(node, depth, |walk, member, depth| match walk.spec.takes[member] {
            Take::Value(value) => walk.value(value, depth),
            _ => Err(Odd),
        })
    }

    #[inline(always)]
    fn envelope_member(&mut self, member: usize, depth: usize) -> Plain<()> {
        match self.spec.takes[member] {
            Take::Text { slot, filled, nullable, required } => {
                if nullable && self.bytes.get(self.at) == Some(&b'n') {
                    return self.literal(b"null");
                }
                let span = self.string()?;
                if filled && span.start == span.end {
                    return Err(Odd);
                }
                self.required += usize::from(required);
                self.text(slot, span)?;
            }
            Take::SpecVersion => {
                let span = self.string()?;
                self.required += 1;
                if self.bytes.get(span.start..span.end) != Some(b"1.0") {
                    return Err(Odd);
                }
            }
            Take::Id => {
                let span = self.string()?;
                self.required += 1;
                if self.escapes && self.has_escapes(span) {
                    return Err(Odd);
                }
                let id = self.bytes.get(span.start..span.end).ok_or(Odd)?;
                self.columns.prints[self.row] = self.names.hash(id) as i64;
                self.ids.extend_from_slice(id);
                self.ids.push(b'\n');
            }
            Take::Source => {
                self.string()?;
                self.required += 1;
            }
            Take::Time => {
                let span = self.string()?;
                self.required += 1;
                self.columns.times[self.row] = self.moments.read(self.bytes.get(span.start..span.end).ok_or(Odd)?)?;
            }
            Take::Number => {
                let span = self.string()?;
                self.columns.numbers[self.row] = chain_number(self.bytes.get(span.start..span.end).ok_or(Odd)?)?;
            }
            Take::Absent => self.literal(b"null")?,
            Take::Data => {
                self.expect(b'{')?;
                self.required += 1;
                self.payload(self.spec.payload, depth + 1)?;
            }
            Take::Value(_) => return Err(Odd),
        }
        Ok(())
    }

    /// A member of the payload. One that has members that are looked for may be anything: it is no fault that it has none.
    #[inline(always)]
    fn value(&mut self, value: Value, depth: usize) -> Plain<()> {
        let taken = match self.bytes.get(self.at).copied().unwrap_or(0) {
            b'"' => {
                let span = self.string()?;
                if let Some(slot) = value.text {
                    self.text(slot, span)?;
                }
                value.text.is_some()
            }
            b'-' | b'0'..=b'9' => {
                let number = self.number()?;
                if let Some(slot) = value.number {
                    if number.too_long {
                        return Err(Odd);
                    }
                    self.put(slot, number.value);
                    return Ok(());
                }
                false
            }
            b't' => {
                self.literal(b"true")?;
                self.truth(value, 1.0)
            }
            b'f' => {
                self.literal(b"false")?;
                self.truth(value, 0.0)
            }
            b'n' => return self.literal(b"null"),
            b'{' => {
                self.at += 1;
                match value.node {
                    Some(node) => self.payload(node, depth + 1)?,
                    None => return Err(Odd),
                }
                false
            }
            b'[' if value.node.is_some() => {
                self.skip(depth)?;
                false
            }
            _ => return Err(Odd),
        };
        if !taken && value.node.is_none() {
            return Err(Odd);
        }
        if let Some(slot) = value.number {
            self.put(slot, f64::NAN); // something, and no number
        }
        Ok(())
    }

    #[inline(always)]
    fn truth(&mut self, value: Value, truth: f64) -> bool {
        if let Some(slot) = value.truth {
            self.put(slot, truth);
        }
        value.truth.is_some()
    }

    #[inline(always)]
    fn put(&mut self, slot: usize, value: f64) {
        let count = &mut self.columns.counts[slot];
        let place = slot * self.columns.n + *count as usize;
        self.columns.rows[place] = self.row as i32;
        self.columns.values[place] = value;
        *count += 1;
    }

    #[inline(always)]
    fn text(&mut self, slot: usize, span: Span) -> Plain<()> {
        let mut text = self.bytes.get(span.start..span.end).ok_or(Odd)?;
        if self.escapes && text.contains(&b'\\') {
            text::unescape(text, self.unescaped)?;
            text = self.unescaped;
        }
        let last = self.last[slot];
        let code = if self.names.text(last) == Some(text) { last } else { self.names.code(text) };
        self.last[slot] = code;
        self.columns.texts[slot * self.columns.n + self.row] = code as i32;
        Ok(())
    }

    fn has_escapes(&self, span: Span) -> bool {
        self.bytes.get(span.start..span.end).is_none_or(|text| text.contains(&b'\\'))
    }

    /// Goes past a value that nobody asks for, as strictly as past others.
    #[inline(always)]
    fn skip(&mut self, depth: usize) -> Plain<()> {
        match self.bytes.get(self.at).copied().unwrap_or(0) {
            b'"' => self.string().map(|_| ()),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            b'{' | b'[' => self.skip_inside(depth + 1),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => Err(Odd),
        }
    }

    #[inline(never)]
    fn skip_inside(&mut self, depth: usize) -> Plain<()> {
        if depth > DEEPEST {
            return Err(Odd);
        }
        let is_object = self.bytes.get(self.at) == Some(&b'{');
        let closing = if is_object { b'}' } else { b']' };
        self.at += 1;
        if self.token() == closing {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.token();
            if is_object {
                self.string()?;
                self.expect(b':')?;
                self.token();
            }
            self.skip(depth)?;
            if !self.more(closing)? {
                return Ok(());
            }
        }
    }
}

/// Asks for the beginning of a record that will be read soon.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch(bytes: &[u8]) {
    use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
    for line in bytes.chunks(64).take(32) {
        // SAFETY: SSE is part of x86-64; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_: &[u8]) {}

#[inline(always)]
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\t' | b'\r')
}

/// The place in a publisher's chain, 0 for none.
#[inline(always)]
fn chain_number(text: &[u8]) -> Plain<i64> {
    if text.first() == Some(&b'0') || text.len() > 18 {
        return Err(Odd);
    }
    text.iter().try_fold(0, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            Err(Odd)
        } else {
            Ok(number * 10 + i64::from(digit))
        }
    })
}

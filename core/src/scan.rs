//! The walk over the members of records.

use crate::cursor::{fetch, Cursor, Span, DEEPEST};
use crate::moment::Moments;
use crate::names::Names;
use crate::quotes::Quotes;
use crate::spec::{Spec, Take, Value, REQUIRED, SKIPPED};
use crate::{text, Odd, Plain};

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
            cursor: Cursor::new(bytes, &self.quotes),
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
        walk.cursor.expect(b'{')?;
        walk.envelope(ENVELOPE, 1)?;
        if walk.required != REQUIRED || !walk.cursor.is_over() {
            return Err(Odd);
        }
        Ok(())
    }
}

struct Walk<'a, 'b> {
    cursor: Cursor<'a>,
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

impl Walk<'_, '_> {
    /// The members of an object whose brace has been read.
    #[inline(always)]
    fn members(&mut self, node: usize, depth: usize, take: impl Fn(&mut Self, usize, usize) -> Plain<()>) -> Plain<()> {
        if depth > DEEPEST {
            return Err(Odd);
        }
        if self.cursor.token() == b'}' {
            self.cursor.at += 1;
            return Ok(());
        }
        let mut last = self.spec.members.before(node);
        loop {
            self.cursor.token();
            let name = self.cursor.string()?;
            if self.escapes && self.has_escapes(name) {
                return Err(Odd);
            }
            self.cursor.expect(b':')?;
            self.cursor.token();
            let member;
            (last, member) = self.spec.members.find(node, last, self.cursor.bytes, name.start, name.end);
            match member {
                SKIPPED => self.cursor.skip(depth, &mut |_| Ok(()))?,
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
            if !self.cursor.more(b'}')? {
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
                if nullable && self.cursor.here() == b'n' {
                    return self.cursor.literal(b"null");
                }
                let span = self.cursor.string()?;
                if filled && span.start == span.end {
                    return Err(Odd);
                }
                self.required += usize::from(required);
                self.text(slot, span)?;
            }
            Take::SpecVersion => {
                let span = self.cursor.string()?;
                self.required += 1;
                if self.cursor.text(span)? != b"1.0" {
                    return Err(Odd);
                }
            }
            Take::Id => {
                let span = self.cursor.string()?;
                self.required += 1;
                if self.escapes && self.has_escapes(span) {
                    return Err(Odd);
                }
                let id = self.cursor.text(span)?;
                self.columns.prints[self.row] = self.names.hash(id) as i64;
                self.ids.extend_from_slice(id);
                self.ids.push(b'\n');
            }
            Take::Source => {
                self.cursor.string()?;
                self.required += 1;
            }
            Take::Time => {
                let span = self.cursor.string()?;
                self.required += 1;
                self.columns.times[self.row] = self.moments.read(self.cursor.text(span)?)?;
            }
            Take::Number => {
                let span = self.cursor.string()?;
                self.columns.numbers[self.row] = chain_number(self.cursor.text(span)?)?;
            }
            Take::Absent => self.cursor.literal(b"null")?,
            Take::Data => {
                self.cursor.expect(b'{')?;
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
        let taken = match self.cursor.here() {
            b'"' => {
                let span = self.cursor.string()?;
                if let Some(slot) = value.text {
                    self.text(slot, span)?;
                }
                value.text.is_some()
            }
            b'-' | b'0'..=b'9' => {
                let number = self.cursor.number()?;
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
                self.cursor.literal(b"true")?;
                self.truth(value, 1.0)
            }
            b'f' => {
                self.cursor.literal(b"false")?;
                self.truth(value, 0.0)
            }
            b'n' => return self.cursor.literal(b"null"),
            b'{' => {
                self.cursor.at += 1;
                match value.node {
                    Some(node) => self.payload(node, depth + 1)?,
                    None => return Err(Odd),
                }
                false
            }
            b'[' if value.node.is_some() => {
                self.cursor.skip(depth, &mut |_| Ok(()))?;
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
        let mut text = self.cursor.text(span)?;
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
        self.cursor.text(span).map_or(true, |text| text.contains(&b'\\'))
    }
}

/// The place in a publisher's chain, 0 for none.
#[inline(always)]
pub(crate) fn chain_number(text: &[u8]) -> Plain<i64> {
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

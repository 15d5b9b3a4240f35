//! What is derived from one record, whose entry says what it says in the same bytes.

use crate::cursor::{Cursor, Span, DEEPEST};
use crate::quotes::Quotes;
use crate::scan::chain_number;
use crate::sha256::{Digest, Sha256};
use crate::{Odd, Plain};

/// How a member of the envelope is read. Others may be anything, as often as they like.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Text,
    TextOrNull,
    Null,
    Data,
    Never,
}

/// In the order of the members on the wire: the one that follows the last is looked for first.
static MEMBERS: [(&[u8], Form); 22] = [
    (b"specversion", Form::Text),
    (b"id", Form::Text),
    (b"source", Form::Text),
    (b"type", Form::Text),
    (b"subject", Form::Text),
    (b"time", Form::Text),
    (b"aggregatetype", Form::Text),
    (b"aggregateid", Form::Text),
    (b"schemaversion", Form::Text),
    (b"data", Form::Data),
    (b"correlationid", Form::TextOrNull),
    (b"sessionid", Form::TextOrNull),
    (b"userid", Form::Null), // somebody's event keeps its hashes sealed
    (b"tenantid", Form::TextOrNull),
    (b"traceparent", Form::TextOrNull),
    (b"expects", Form::Text),
    (b"sequence", Form::Text),
    (b"chainsession", Form::Text),
    (b"chainnumber", Form::Text),
    (b"chainprev", Form::Text),
    (b"chainvoids", Form::Text),
    (b"data_base64", Form::Never),
];
const SPEC_VERSION: usize = 0;
const ID: usize = 1;
const SOURCE: usize = 2;
const TYPE: usize = 3;
const TIME: usize = 5;
const OWNER: usize = 6;
const OWNER_ID: usize = 7;
const CORRELATION: usize = 10;
const TENANT: usize = 13;
const TRACE: usize = 14;
const SEQUENCE: usize = 16;
const SESSION: usize = 17;
const NUMBER: usize = 18;
const PREV: usize = 19;
const VOIDS: usize = 20;

/// Members of the payload that an entry names.
static NAMED: [&[u8]; 3] = [b"agent_id", b"task_id", b"workflow_id"];
const TRACED: &[u8] = b",\"traceparent\":\"";
/// Objects and lists in a payload that are looked through; who asks beyond takes what is deeper for personal.
const PAYLOAD_DEPTH: usize = 24;

/// A record that is plain.
pub(crate) struct Record<'a> {
    bytes: &'a [u8],
    texts: [Option<&'a [u8]>; MEMBERS.len()],
    data: Span,
    named: [Option<&'a [u8]>; NAMED.len()],
    /// Where the text of the trace stands.
    trace: Span,
}

/// Its place in a publisher's chain.
#[derive(Clone, Copy)]
pub(crate) struct Link<'a> {
    pub(crate) session: &'a [u8],
    pub(crate) number: i64,
    pub(crate) prev: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a record. `is_plain` says of the name of a member that its value is nothing personal, whatever it is.
    pub(crate) fn read(bytes: &'a [u8], quotes: &'a mut Quotes, is_plain: impl Fn(&[u8]) -> bool) -> Plain<Record<'a>> {
        let escapes = quotes.find(bytes)?;
        let mut walk = Walk {
            cursor: Cursor::new(bytes, quotes),
            escapes,
            is_plain,
            record: Record { bytes, texts: [None; MEMBERS.len()], data: Span::default(), named: [None; 3], trace: Span::default() },
        };
        walk.envelope()?;
        let record = walk.record;
        let required = [ID, SOURCE, TYPE, TIME].iter().all(|member| record.texts[*member].is_some());
        let filled = [OWNER, OWNER_ID].iter().all(|member| record.texts[*member].is_some_and(|text| !text.is_empty()));
        if !required || !filled || record.texts[SPEC_VERSION] != Some(b"1.0") || record.data.end == 0 {
            return Err(Odd);
        }
        Ok(record)
    }

    fn text(&self, member: usize) -> &'a [u8] {
        self.texts[member].unwrap_or_default()
    }

    pub(crate) fn id(&self) -> &'a [u8] {
        self.text(ID)
    }

    pub(crate) fn source(&self) -> &'a [u8] {
        self.text(SOURCE)
    }

    pub(crate) fn kind(&self) -> &'a [u8] {
        self.text(TYPE)
    }

    pub(crate) fn time(&self) -> &'a [u8] {
        self.text(TIME)
    }

    pub(crate) fn correlation(&self) -> Option<&'a [u8]> {
        self.texts[CORRELATION]
    }

    pub(crate) fn tenant(&self) -> Option<&'a [u8]> {
        self.texts[TENANT]
    }

    /// The payload as it came.
    pub(crate) fn data(&self) -> &'a [u8] {
        &self.bytes[self.data.start..self.data.end]
    }

    /// The agent, the task and the workflow that it is about; empty for none.
    pub(crate) fn about(&self) -> [&'a [u8]; 3] {
        let [agent, task, workflow] = self.named.map(Option::unwrap_or_default);
        let owner_id = self.text(OWNER_ID);
        match self.text(OWNER) {
            b"agent" => [owner_id, task, workflow],
            b"task" => [agent, owner_id, workflow],
            b"workflow" => [agent, task, owner_id],
            _ => [agent, task, workflow],
        }
    }

    /// Its link, if it has one.
    pub(crate) fn link(&self) -> Plain<Option<Link<'a>>> {
        let Some(session) = self.texts[SESSION] else {
            return Ok(None);
        };
        let number = chain_number(self.text(NUMBER))?;
        if session.is_empty() || number == 0 {
            return Err(Odd);
        }
        Ok(Some(Link { session, number, prev: self.text(PREV) }))
    }

    /// The hash of all of it, and of its content: without the link and the trace, where these stand as publishers write them.
    pub(crate) fn digests(&self, scratch: &mut Vec<u8>) -> Plain<(Digest, Digest)> {
        let end = self.content_end(scratch);
        let trace = self.trace_within(end)?.unwrap_or(Span { start: end, end });
        let mut whole = Sha256::new();
        whole.update(&self.bytes[..trace.start]);
        let mut content = whole.clone();
        content.update(&self.bytes[trace.end..end]);
        whole.update(&self.bytes[trace.start..]);
        Ok((whole.finish(), content.finish()))
    }

    fn content_end(&self, scratch: &mut Vec<u8>) -> usize {
        let content = match self.texts[SESSION] {
            None => self.bytes.strip_suffix(b"}"),
            Some(session) => {
                scratch.clear();
                let members: [(&[u8], &[u8]); 4] = [
                    (b",\"sequence\":\"", self.text(SEQUENCE)),
                    (b"\",\"chainsession\":\"", session),
                    (b"\",\"chainnumber\":\"", self.text(NUMBER)),
                    (b"\",\"chainprev\":\"", self.text(PREV)),
                ];
                for (before, text) in members {
                    scratch.extend_from_slice(before);
                    scratch.extend_from_slice(text);
                }
                if !self.text(VOIDS).is_empty() {
                    scratch.extend_from_slice(b"\",\"chainvoids\":\"");
                    scratch.extend_from_slice(self.text(VOIDS));
                }
                scratch.extend_from_slice(b"\"}");
                self.bytes.strip_suffix(&scratch[..])
            }
        };
        content.map_or(self.bytes.len(), <[u8]>::len)
    }

    /// Where the member of the trace stands in the content, its comma with it.
    ///
    /// Odd where it does not stand behind the data, or an object does: what looks like data or trace there is for others to judge.
    fn trace_within(&self, end: usize) -> Plain<Option<Span>> {
        let Some(trace) = self.texts[TRACE] else {
            return Ok(None);
        };
        let behind = self.bytes.get(self.data.end..end).ok_or(Odd)?;
        let start = self.trace.start.checked_sub(TRACED.len()).ok_or(Odd)?;
        let stands = start >= self.data.end && self.trace.end < end && self.bytes.get(start..self.trace.start) == Some(TRACED);
        if trace.is_empty() || !stands || behind.contains(&b'}') {
            return Err(Odd);
        }
        Ok(Some(Span { start, end: self.trace.end + 1 }))
    }
}

struct Walk<'a, F> {
    cursor: Cursor<'a>,
    escapes: bool,
    is_plain: F,
    record: Record<'a>,
}

impl<'a, F: Fn(&[u8]) -> bool> Walk<'a, F> {
    fn envelope(&mut self) -> Plain<()> {
        self.cursor.expect(b'{')?;
        let (mut last, mut met) = (0, 0u32);
        loop {
            self.cursor.token();
            let name = self.plain_text()?;
            self.cursor.expect(b':')?;
            self.cursor.token();
            match (last..MEMBERS.len()).chain(0..last).find(|member| MEMBERS[*member].0 == name) {
                Some(member) if met & 1 << member != 0 => return Err(Odd),
                Some(member) => {
                    met |= 1 << member;
                    last = member + 1;
                    self.member(member)?;
                }
                None => self.cursor.skip(1, &mut |_| Ok(()))?,
            }
            if !self.cursor.more(b'}')? {
                return if self.cursor.is_over() { Ok(()) } else { Err(Odd) };
            }
        }
    }

    #[inline(always)]
    fn member(&mut self, member: usize) -> Plain<()> {
        let form = MEMBERS[member].1;
        match (form, self.cursor.here()) {
            (Form::Text | Form::TextOrNull, b'"') => {
                let start = self.cursor.at + 1;
                let text = self.plain_text()?;
                self.record.texts[member] = Some(text);
                if member == TRACE {
                    self.record.trace = Span { start, end: start + text.len() };
                }
                Ok(())
            }
            (Form::TextOrNull | Form::Null, b'n') => self.cursor.literal(b"null"),
            (Form::Data, b'{') => self.payload(),
            _ => Err(Odd),
        }
    }

    fn payload(&mut self) -> Plain<()> {
        let start = self.cursor.at;
        self.cursor.at += 1;
        if self.cursor.token() == b'}' {
            self.cursor.at += 1;
        } else {
            self.payload_members()?;
        }
        self.record.data = Span { start, end: self.cursor.at };
        Ok(())
    }

    fn payload_members(&mut self) -> Plain<()> {
        loop {
            self.cursor.token();
            let name = self.plain_text()?;
            self.cursor.expect(b':')?;
            self.cursor.token();
            let is_plain = &self.is_plain;
            if !is_plain(name) {
                return Err(Odd);
            }
            let named = NAMED.iter().position(|one| *one == name);
            match named {
                Some(named) if self.record.named[named].is_some() => return Err(Odd),
                Some(named) if self.cursor.here() == b'"' => self.record.named[named] = Some(self.plain_text()?),
                _ => {
                    let mut inner = |name: &[u8]| if is_plain(name) { Ok(()) } else { Err(Odd) };
                    self.cursor.skip(DEEPEST - PAYLOAD_DEPTH, &mut inner)?;
                }
            }
            if !self.cursor.more(b'}')? {
                return Ok(());
            }
        }
    }

    /// A string as it stands there, which is what it says.
    #[inline(always)]
    fn plain_text(&mut self) -> Plain<&'a [u8]> {
        let span = self.cursor.string()?;
        let text = self.cursor.text(span)?;
        if self.escapes && text.contains(&b'\\') {
            return Err(Odd);
        }
        Ok(text)
    }
}

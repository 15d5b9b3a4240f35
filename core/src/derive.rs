//! Entries of plain records: what an entry says is written as JSON, byte for byte as the patient reader writes it.
//!
//! What is personal, and what follows from a type, is not known here. Names whose values are nothing personal, and types, are
//! told; a record with any other is odd.

use crate::cursor::fetch;
use crate::names::Names;
use crate::quotes::Quotes;
use crate::record::Record;
use crate::sha256::{hex, Sha256, DIGEST};
use crate::{Odd, Plain};

/// How a record fits into its publisher's chain, as far as can be told from those before it in the same call.
pub(crate) const ODD: u8 = 0;
pub(crate) const UNLINKED: u8 = 1;
pub(crate) const LINKED: u8 = 2;
pub(crate) const FOLLOWS: u8 = 3;
pub(crate) const STRAYS: u8 = 4;
/// Of a UUID as text, its hyphens with it; the digit of its version.
const UUID: usize = 36;
const VERSION_AT: usize = 14;

/// What an env has beside what stands in its record, and more.
const ENV_ROOM: usize = 1 << 10;

/// Records that are longer gain nothing here, and what is made of some hundred of them would take much room.
const LONGEST: usize = 1 << 16;

type Hex = [u8; 2 * DIGEST];

/// What follows from a type, as it stands in an entry.
struct Kind {
    category: Box<[u8]>,
    outcome: Box<[u8]>,
    severity: Box<[u8]>,
    action: Box<[u8]>,
}

/// The entries of one call; what they are is said at `abi::Entries`.
#[derive(Default)]
pub(crate) struct Entries {
    pub(crate) fits: Vec<u8>,
    pub(crate) kinds: Vec<i32>,
    pub(crate) envs: Vec<u8>,
    pub(crate) lines: Vec<u8>,
    pub(crate) payloads: Vec<u8>,
    pub(crate) links: Vec<u8>,
}

impl Entries {
    fn clear(&mut self) {
        self.fits.clear();
        self.kinds.clear();
        for text in [&mut self.envs, &mut self.lines, &mut self.payloads, &mut self.links] {
            text.clear();
        }
    }
}

/// See the module.
pub(crate) struct Deriver {
    mixed_with: Sha256,
    names: Names,
    types: Names,
    kinds: Vec<Kind>,
    quotes: Quotes,
    scratch: Vec<u8>,
    last: Option<Last>,
    entries: Entries,
}

/// The link of the record before.
struct Last {
    session: Vec<u8>,
    number: i64,
    digest: Hex,
}

impl Deriver {
    /// `mixed_with` comes before every id that an entry's id is made of.
    pub(crate) fn new(mixed_with: &[u8]) -> Deriver {
        let mut hash = Sha256::new();
        hash.update(mixed_with);
        Deriver {
            mixed_with: hash,
            names: Names::new(),
            types: Names::new(),
            kinds: Vec::new(),
            quotes: Quotes::default(),
            scratch: Vec::new(),
            last: None,
            entries: Entries::default(),
        }
    }

    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Members of payloads whose values are nothing personal, a line each.
    pub(crate) fn learn_names(&mut self, lines: &[u8]) {
        for name in each(lines) {
            self.names.code(name);
        }
    }

    /// A line `type TAB category TAB outcome TAB severity TAB action` for each; their codes are in the order in which they are told.
    pub(crate) fn learn_types(&mut self, lines: &[u8]) {
        for line in each(lines) {
            let mut fields = line.split(|byte| *byte == b'\t');
            let mut next = || fields.next().unwrap_or_default();
            let name = next();
            let kind = Kind { category: next().into(), outcome: next().into(), severity: next().into(), action: next().into() };
            if self.types.code(name) as usize == self.kinds.len() {
                self.kinds.push(kind);
            }
        }
    }

    /// Makes the entries of some records, of which number `i` lies at `place` and `offsets[i]`. Gives how many are not odd.
    pub(crate) fn derive<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]> + Clone,
        place: &[u8],
        offsets: impl Iterator<Item = i64>,
    ) -> usize {
        self.entries.clear();
        self.last = None;
        let mut ahead = records.clone().skip(1);
        for (bytes, offset) in records.zip(offsets) {
            if let Some(bytes) = ahead.next() {
                fetch(bytes);
            }
            if self.record(bytes, place, offset).is_err() {
                self.entries.fits.push(ODD);
                self.last = None;
            }
        }
        self.entries.kinds.len()
    }

    fn record(&mut self, bytes: &[u8], place: &[u8], offset: i64) -> Plain<()> {
        if bytes.len() > LONGEST {
            return Err(Odd);
        }
        let record = Record::read(bytes, &mut self.quotes, |name| self.names.find(name).is_some())?;
        let data = record.data();
        let code = self.types.find(record.kind()).ok_or(Odd)?;
        let kind = self.kinds.get(code as usize).ok_or(Odd)?;
        if !record.id().is_ascii() || data.contains(&b'\n') {
            return Err(Odd); // letters of other scripts are counted in another way; payloads are told apart by their lines
        }
        let link = record.link()?;
        let (digest, content) = record.digests(&mut self.scratch)?;
        let (digest, content) = (hex(&digest), hex(&content));
        let audit_id = audit_id(&self.mixed_with, record.id());
        let about = record.about();

        let out = &mut self.entries;
        let fit = match link {
            None => UNLINKED,
            Some(link) => match &self.last {
                Some(last) if last.session != link.session || last.number + 1 != link.number => LINKED,
                Some(last) if last.digest != link.prev => STRAYS,
                Some(_) => FOLLOWS,
                None => LINKED,
            },
        };
        if let (LINKED, Some(link)) = (fit, link) {
            lines(&mut out.links, [link.session, link.number.to_string().as_bytes(), link.prev]);
        }
        match (link, &mut self.last) {
            (Some(link), Some(last)) if fit != LINKED => (last.number, last.digest) = (link.number, digest),
            (Some(link), last) => *last = Some(Last { session: link.session.to_vec(), number: link.number, digest }),
            (None, last) => *last = None,
        }
        out.fits.push(fit);
        out.kinds.push(code as i32);
        lines(&mut out.payloads, [data]);
        lines(&mut out.lines, [&audit_id, &digest, &content, about[0], about[1], about[2]]);

        let [agent, task, workflow] = about.map(|id| if id.is_empty() { None } else { Some(id) });
        let env = &mut out.envs;
        env.reserve(bytes.len() + ENV_ROOM);
        member(env, b"{\"action\":\"", Some(&kind.action));
        member(env, b",\"audit_id\":\"", Some(&audit_id));
        member(env, b",\"category\":\"", Some(&kind.category));
        member(env, b",\"event_id\":\"", Some(record.id()));
        member(env, b",\"event_time\":\"", Some(record.time()));
        member(env, b",\"event_type\":\"", Some(record.kind()));
        member(env, b",\"outcome\":\"", Some(&kind.outcome));
        env.extend_from_slice(b",\"position\":\"");
        env.extend_from_slice(place);
        member(env, b"", Some(offset.to_string().as_bytes()));
        member(env, b",\"publisher_chain\":\"", Some(said(fit)));
        member(env, b",\"severity\":\"", Some(&kind.severity));
        member(env, b",\"origin\":\"", Some(b"derived"));
        member(env, b",\"agent_id\":\"", agent);
        member(env, b",\"content_digest\":\"", Some(&content));
        member(env, b",\"correlation_id\":\"", record.correlation());
        member(env, b",\"digest\":\"", Some(&digest));
        member(env, b",\"source\":\"", Some(record.source()));
        member(env, b",\"task_id\":\"", task);
        member(env, b",\"tenant\":\"", record.tenant());
        member(env, b",\"workflow_id\":\"", workflow);
        env.extend_from_slice(b"}\n");
        Ok(())
    }
}

fn said(fit: u8) -> &'static [u8] {
    match fit {
        UNLINKED => b"unlinked",
        STRAYS => b"altered",
        _ => b"linked",
    }
}

/// Lines with an end behind each.
fn each(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

#[inline(always)]
fn member(env: &mut Vec<u8>, before: &[u8], text: Option<&[u8]>) {
    if let Some(text) = text {
        env.extend_from_slice(before);
        env.extend_from_slice(text);
        env.push(b'"');
    }
}

#[inline(always)]
fn lines<const N: usize>(into: &mut Vec<u8>, texts: [&[u8]; N]) {
    for text in texts {
        into.extend_from_slice(text);
        into.push(b'\n');
    }
}

/// The id of an event's entry, near those of its time where the event's is a UUIDv7: the time in it stays as it is.
fn audit_id(mixed_with: &Sha256, event_id: &[u8]) -> [u8; UUID] {
    let mut hash = mixed_with.clone();
    hash.update(event_id);
    let mixed = hex(&hash.finish());
    let (mut high, mut low) = (&mixed[52..60], &mixed[60..64]);
    if event_id.len() == UUID && event_id[VERSION_AT] == b'7' {
        let time = (&event_id[..8], &event_id[9..13]);
        if time.0.iter().chain(time.1).all(u8::is_ascii_alphanumeric) {
            (high, low) = time;
        }
    }
    let mut id = [0; UUID];
    let pieces: [&[u8]; 8] = [high, b"-", low, b"-8", &mixed[..3], b"-8", &mixed[3..6], b"-"];
    let mut at = 0;
    for piece in pieces.into_iter().chain([&mixed[6..18]]) {
        id[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    id
}

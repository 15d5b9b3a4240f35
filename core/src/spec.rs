//! What is read: the members of the envelope, and those of the payload that a spec names, as a tree.

/// Slots of texts that every scanner has, before those of its spec.
pub(crate) const TYPE: usize = 0;
const AGGREGATE_TYPE: usize = 1;
const AGGREGATE_ID: usize = 2;
const SCHEMA_VERSION: usize = 3;
const TENANT_ID: usize = 4;
const EXPECTS: usize = 5;
const CHAIN_SESSION: usize = 6;
const FIXED: usize = 7;

/// How many members a record cannot be without.
pub(crate) const REQUIRED: usize = 9;
/// Members that are learnt beside those that are looked for; more are skipped slowly.
const LEARNT: usize = 48;
const LONGEST: usize = 64;
/// Members inside each other that a path may name.
const STEPS: usize = 32;
/// Orders of members that are kept: one for some event types each.
pub(crate) const SHAPES: usize = 16;
const INLINE: usize = 32;

/// What is to be done with a member.
#[derive(Clone, Copy)]
pub(crate) enum Take {
    SpecVersion,
    Id,
    Text { slot: usize, filled: bool, nullable: bool, required: bool },
    Source,
    Time,
    Number,
    Absent,
    Data,
    Value(Value),
}

/// The slots of a path of the payload, and the node of its members.
#[derive(Clone, Copy, Default)]
pub(crate) struct Value {
    pub(crate) text: Option<usize>,
    pub(crate) number: Option<usize>,
    pub(crate) truth: Option<usize>,
    pub(crate) node: Option<usize>,
}

/// A name of a member, in an object that is looked into.
pub(crate) struct Known {
    start: [u8; INLINE],
    name: Box<[u8]>,
    /// Which member of the spec it is, none for one that is skipped.
    pub(crate) member: Option<usize>,
    /// Which name followed it last, by shape.
    next: [u16; SHAPES],
}

impl Known {
    fn new(name: &[u8], member: Option<usize>) -> Known {
        let mut start = [0; INLINE];
        let length = name.len().min(INLINE);
        start[..length].copy_from_slice(&name[..length]);
        Known { start, name: name.into(), member, next: [0; SHAPES] }
    }

    /// Whether the bytes from `at` to `end` are this name.
    #[inline(always)]
    fn is(&self, bytes: &[u8], at: usize, end: usize) -> bool {
        let length = end - at;
        if length != self.name.len() {
            return false;
        }
        match bytes.get(at..at + INLINE) {
            Some(wide) if length <= INLINE => same(wide, &self.start, length),
            _ => bytes.get(at..end) == Some(&*self.name),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn same(wide: &[u8], start: &[u8; INLINE], length: usize) -> bool {
    use std::arch::x86_64::*;
    let wide: &[u8; INLINE] = wide.try_into().expect("as long as it was cut");
    let unlike = |at: usize| {
        // SAFETY: 16 bytes are read of two arrays of 32, from 0 or 16 on; SSE2 is part of x86-64.
        let alike = unsafe {
            let (one, other) = (wide.as_ptr().add(at), start.as_ptr().add(at));
            _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(one.cast()), _mm_loadu_si128(other.cast())))
        };
        !alike as u32 & 0xffff
    };
    let mut wrong = u64::from(unlike(0));
    if length > 16 {
        wrong |= u64::from(unlike(16)) << 16;
    }
    wrong & ((1 << length) - 1) == 0
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn same(wide: &[u8], start: &[u8; INLINE], length: usize) -> bool {
    wide[..length] == start[..length]
}

/// The names in one kind of object.
pub(crate) struct Node {
    pub(crate) known: Vec<Known>,
    first: [u16; SHAPES],
    room: usize,
}

impl Node {
    fn new(names: Vec<Known>) -> Node {
        let room = names.len() + LEARNT;
        Node { known: names, first: [0; SHAPES], room }
    }

    /// Which name stands from `at` to `end`, behind `last`; one that is new is learnt while there is room.
    #[inline(always)]
    pub(crate) fn find(&mut self, last: Option<usize>, shape: usize, bytes: &[u8], at: usize, end: usize) -> Option<usize> {
        let shape = shape % SHAPES;
        let guess = match last {
            Some(last) => self.known.get(last)?.next[shape],
            None => self.first[shape],
        } as usize;
        if self.known.get(guess).is_some_and(|known| known.is(bytes, at, end)) {
            return Some(guess);
        }
        self.search(last, shape, bytes, at, end)
    }

    #[inline(never)]
    fn search(&mut self, last: Option<usize>, shape: usize, bytes: &[u8], at: usize, end: usize) -> Option<usize> {
        let found = match self.known.iter().position(|known| known.is(bytes, at, end)) {
            Some(found) => found,
            None if self.known.len() < self.room && end - at <= LONGEST => {
                self.known.push(Known::new(bytes.get(at..end)?, None));
                self.known.len() - 1
            }
            None => return None,
        };
        let guess = match last {
            Some(last) => &mut self.known.get_mut(last)?.next[shape],
            None => &mut self.first[shape],
        };
        *guess = found as u16;
        Some(found)
    }
}

/// What a scanner looks for.
pub(crate) struct Spec {
    pub(crate) nodes: Vec<Node>,
    pub(crate) takes: Vec<Take>,
    pub(crate) texts: usize,
    pub(crate) numbers: usize,
    /// The node of the payload.
    pub(crate) payload: usize,
}

#[derive(Default)]
struct Branch {
    value: Value,
    members: Vec<(String, Branch)>,
}

impl Spec {
    /// From lines `kind TAB path`. None for one that is no such thing, or has a path twice for the same.
    pub(crate) fn parse(text: &str) -> Option<Spec> {
        let mut payload = Branch::default();
        let (mut texts, mut numbers) = (FIXED, 0);
        for line in text.split_terminator('\n') {
            let (kind, path) = line.split_once('\t')?;
            if path.split('.').count() > STEPS {
                return None;
            }
            let branch = path.split('.').try_fold(&mut payload, Branch::member)?;
            let (slot, number) = match kind {
                "t" => (&mut branch.value.text, &mut texts),
                "n" => (&mut branch.value.number, &mut numbers),
                "b" => (&mut branch.value.truth, &mut numbers),
                _ => return None,
            };
            if slot.replace(*number).is_some() {
                return None;
            }
            *number += 1;
        }
        let mut spec = Spec { nodes: Vec::new(), takes: Vec::new(), texts, numbers, payload: 0 };
        spec.envelope();
        spec.payload = spec.node(payload);
        (spec.takes.len() < usize::from(u16::MAX) / 2).then_some(spec)
    }

    fn envelope(&mut self) {
        let text = |slot, filled| Take::Text { slot, filled, nullable: false, required: true };
        let optional = |slot, nullable| Take::Text { slot, filled: false, nullable, required: false };
        let members = [
            ("specversion", Take::SpecVersion),
            ("id", Take::Id),
            ("source", Take::Source),
            ("type", text(TYPE, false)),
            ("time", Take::Time),
            ("aggregatetype", text(AGGREGATE_TYPE, true)),
            ("aggregateid", text(AGGREGATE_ID, true)),
            ("schemaversion", text(SCHEMA_VERSION, false)),
            ("data", Take::Data),
            ("tenantid", optional(TENANT_ID, true)),
            ("expects", optional(EXPECTS, false)),
            ("chainsession", optional(CHAIN_SESSION, false)),
            ("chainnumber", Take::Number),
            ("data_base64", Take::Absent),
        ];
        let names = members.map(|(name, take)| Known::new(name.as_bytes(), Some(self.take(take))));
        self.nodes.push(Node::new(names.into()));
    }

    fn take(&mut self, take: Take) -> usize {
        self.takes.push(take);
        self.takes.len() - 1
    }

    fn node(&mut self, branch: Branch) -> usize {
        let mut names = Vec::new();
        for (name, mut member) in branch.members {
            let value = std::mem::take(&mut member.value);
            let node = if member.members.is_empty() { None } else { Some(self.node(member)) };
            let take = self.take(Take::Value(Value { node, ..value }));
            names.push(Known::new(name.as_bytes(), Some(take)));
        }
        self.nodes.push(Node::new(names));
        self.nodes.len() - 1
    }
}

impl Branch {
    fn member(&mut self, name: &str) -> Option<&mut Branch> {
        if name.is_empty() {
            return None;
        }
        let at = self.members.iter().position(|(other, _)| other == name).unwrap_or_else(|| {
            self.members.push((name.to_owned(), Branch::default()));
            self.members.len() - 1
        });
        Some(&mut self.members[at].1)
    }
}

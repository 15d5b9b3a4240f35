//! What is read: the members of the envelope, and those of the payload that a spec names, as a tree.

/// Slots of texts that every scanner has, before those of its spec.
const TYPE: usize = 0;
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
#[repr(align(64))]
struct Known {
    start: [u8; INLINE],
    length: usize,
    /// Which member of the spec it is, `SKIPPED` for one that nobody looks for.
    member: u32,
    /// Which name followed it last.
    next: u16,
    name: Box<[u8]>,
}

/// In the place of a member that is looked for.
pub(crate) const SKIPPED: u32 = u32::MAX;

impl Known {
    fn new(name: &[u8], member: u32) -> Known {
        let mut start = [0; INLINE];
        let length = name.len().min(INLINE);
        start[..length].copy_from_slice(&name[..length]);
        Known { start, length: name.len(), member, next: 0, name: name.into() }
    }

    /// Whether the bytes from `at` to `end` are this name.
    #[inline(always)]
    fn is(&self, bytes: &[u8], at: usize, end: usize) -> bool {
        let length = end - at;
        if length != self.length {
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

/// The names in the objects that are looked into, and in what order they come.
#[derive(Default)]
pub(crate) struct Members {
    all: Vec<Known>,
    /// Of each node the names in it; the first is none, and only says which comes first.
    nodes: Vec<Vec<u16>>,
    /// With how many names each node began.
    sizes: Vec<usize>,
}

impl Members {
    /// A node of some names. None when there are too many.
    fn node(&mut self, names: impl IntoIterator<Item = Known>) -> Option<usize> {
        let first = self.all.len();
        self.all.push(Known { length: usize::MAX, ..Known::new(b"", SKIPPED) });
        self.all.extend(names);
        let places: Option<Vec<u16>> = (first..self.all.len()).map(|place| u16::try_from(place).ok()).collect();
        self.nodes.push(places?);
        self.sizes.push(self.all.len() - first);
        Some(self.nodes.len() - 1)
    }

    /// What comes before the first name in a node.
    #[inline(always)]
    pub(crate) fn before(&self, node: usize) -> usize {
        usize::from(self.nodes[node][0])
    }

    /// Which name stands from `at` to `end`, behind `last`, and which member it is.
    ///
    /// One that is new is learnt while there is room; without, it is as if `last` had been there once more.
    #[inline(always)]
    pub(crate) fn find(&mut self, node: usize, last: usize, bytes: &[u8], at: usize, end: usize) -> (usize, u32) {
        let guess = usize::from(self.all[last].next);
        let known = &self.all[guess];
        if known.is(bytes, at, end) {
            return (guess, known.member);
        }
        self.search(node, last, bytes, at, end)
    }

    #[inline(never)]
    fn search(&mut self, node: usize, last: usize, bytes: &[u8], at: usize, end: usize) -> (usize, u32) {
        let names = &mut self.nodes[node];
        let found = match names.iter().find(|place| self.all[usize::from(**place)].is(bytes, at, end)) {
            Some(found) => *found,
            None => {
                let (Ok(place), Some(name)) = (u16::try_from(self.all.len()), bytes.get(at..end)) else {
                    return (last, SKIPPED);
                };
                if names.len() >= self.sizes[node] + LEARNT || name.len() > LONGEST {
                    return (last, SKIPPED);
                }
                self.all.push(Known::new(name, SKIPPED));
                names.push(place);
                place
            }
        };
        self.all[last].next = found;
        (usize::from(found), self.all[usize::from(found)].member)
    }
}

/// What a scanner looks for.
pub(crate) struct Spec {
    pub(crate) members: Members,
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
        let mut spec = Spec { members: Members::default(), takes: Vec::new(), texts, numbers, payload: 0 };
        spec.envelope()?;
        spec.payload = spec.node(payload)?;
        Some(spec)
    }

    fn envelope(&mut self) -> Option<usize> {
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
        let names = members.map(|(name, take)| Known::new(name.as_bytes(), self.take(take)));
        self.members.node(names)
    }

    fn take(&mut self, take: Take) -> u32 {
        self.takes.push(take);
        self.takes.len() as u32 - 1
    }

    fn node(&mut self, branch: Branch) -> Option<usize> {
        let mut names = Vec::new();
        for (name, mut member) in branch.members {
            let value = std::mem::take(&mut member.value);
            let node = if member.members.is_empty() { None } else { Some(self.node(member)?) };
            let take = self.take(Take::Value(Value { node, ..value }));
            names.push(Known::new(name.as_bytes(), take));
        }
        self.members.node(names)
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

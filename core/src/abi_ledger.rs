//! The part of the interface for C that makes entries of the audit ledger and seals them.
//!
//! A deriver is used by one thread at a time. A fault in here is caught, and looks as if nothing could be done.

use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::abi::{borrowed, lent, records};
use crate::derive::Deriver;
use crate::seal::{self, CORE};
use crate::sha256::{Digest, Mac, BLOCK};

/// The entries that `tr_derive` made; they lie there until the deriver is used again, or given back.
#[repr(C)]
pub struct Entries {
    /// Of each record: 0 for one that is odd; 1 for one without a link; 2 for one that has one, of which its entry says that it fits;
    /// 3 for one whose link continues the record before it; 4 for one whose number does and whose link does not, and its entry says so.
    fits: *const u8,
    /// Of each entry the code of its type.
    kinds: *const i32,
    /// Their envs, a line each.
    envs: *const u8,
    envs_length: usize,
    /// Of each entry lines: its id, the digests of its record and of the content, the agent, the task and the workflow.
    lines: *const u8,
    lines_length: usize,
    /// The payloads of their records, a line each.
    payloads: *const u8,
    payloads_length: usize,
    /// Of each record that is marked by 2 lines: session, number, and the digest that it names as the one before.
    links: *const u8,
    links_length: usize,
}

/// A deriver; `mixed_with` are the bytes before every id that an entry's id is made of.
///
/// # Safety
/// `mixed_with` is null or has `length` bytes.
#[no_mangle]
pub unsafe extern "C" fn tr_deriver_new(mixed_with: *const u8, length: usize) -> *mut Deriver {
    // SAFETY: as the caller promises.
    let mixed_with = unsafe { borrowed(mixed_with, length) };
    let made = catch_unwind(|| mixed_with.map(|bytes| Box::new(Deriver::new(bytes))));
    made.ok().flatten().map_or(std::ptr::null_mut(), Box::into_raw)
}

/// Gives a deriver back.
///
/// # Safety
/// `deriver` is null or from `tr_deriver_new`, and not used any more.
#[no_mangle]
pub unsafe extern "C" fn tr_deriver_free(deriver: *mut Deriver) {
    if !deriver.is_null() {
        // SAFETY: as the caller promises.
        drop(unsafe { Box::from_raw(deriver) });
    }
}

/// Tells what is not odd: names of members whose values are nothing personal, a line each; and types with what follows from them,
/// a line `type TAB category TAB outcome TAB severity TAB action` each. All as they stand in JSON without escapes.
///
/// # Safety
/// `deriver` is from `tr_deriver_new` and nobody else's now; the others have the bytes that their lengths say.
#[no_mangle]
pub unsafe extern "C" fn tr_deriver_learn(
    deriver: *mut Deriver,
    names: *const u8,
    names_length: usize,
    types: *const u8,
    types_length: usize,
) {
    // SAFETY: as the caller promises.
    let told = unsafe { (deriver.as_mut(), borrowed(names, names_length), borrowed(types, types_length)) };
    if let (Some(deriver), Some(names), Some(types)) = told {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            deriver.learn_names(names);
            deriver.learn_types(types);
        }));
    }
}

/// Makes the entries of `count` records, of which number `i` has `lengths[i]` bytes from `starts[i]` on and lies at `place` and
/// `offsets[i]`. Gives how many it made; less than none where it could not.
///
/// # Safety
/// `deriver` is from `tr_deriver_new` and nobody else's now; `starts`, `lengths` and `offsets` have `count` numbers each, the first
/// two say where there are bytes that nobody changes; `place` has `place_length` bytes; `out` can be written to.
#[no_mangle]
pub unsafe extern "C" fn tr_derive(
    deriver: *mut Deriver,
    starts: *const *const u8,
    lengths: *const isize,
    offsets: *const i64,
    count: usize,
    place: *const u8,
    place_length: usize,
    out: *mut Entries,
) -> i64 {
    // SAFETY: as the caller promises.
    let told = unsafe { (deriver.as_mut(), out.as_mut(), borrowed(offsets, count), borrowed(place, place_length)) };
    let (Some(deriver), Some(out), Some(offsets), Some(place)) = told else {
        return -1;
    };
    // SAFETY: as the caller promises.
    let Some(records) = (unsafe { records(starts, lengths, count) }) else {
        return -1;
    };
    let derive = AssertUnwindSafe(|| deriver.derive(records, place, offsets.iter().copied()));
    let Ok(made) = catch_unwind(derive) else {
        return -1;
    };
    let entries = deriver.entries();
    *out = Entries {
        fits: entries.fits.as_ptr(),
        kinds: entries.kinds.as_ptr(),
        envs: entries.envs.as_ptr(),
        envs_length: entries.envs.len(),
        lines: entries.lines.as_ptr(),
        lines_length: entries.lines.len(),
        payloads: entries.payloads.as_ptr(),
        payloads_length: entries.payloads.len(),
        links: entries.links.as_ptr(),
        links_length: entries.links.len(),
    };
    made as i64
}

/// Seals `count` envs as records behind each other. Gives whether it could: 1, or 0, and then what has been written means nothing.
///
/// The key is not kept: what was made of it is wiped before this returns.
///
/// # Safety
/// `starts` and `lengths` have `count` numbers each, and say where there are bytes that nobody changes; `core` has 135 bytes, the
/// first record's without the hash of its env; `key` has 64, filled up with zeros; `packed` has room for `room` bytes, and `leaves`
/// for 32 of each record.
#[no_mangle]
pub unsafe extern "C" fn tr_seal(
    starts: *const *const u8,
    lengths: *const isize,
    count: usize,
    core: *const [u8; CORE],
    key: *const [u8; BLOCK],
    packed: *mut u8,
    room: usize,
    leaves: *mut Digest,
) -> i64 {
    // SAFETY: as the caller promises.
    let told = unsafe { (records(starts, lengths, count), core.as_ref(), key.as_ref(), lent(packed, room), lent(leaves, count)) };
    let (Some(envs), Some(core), Some(key), Some(packed), Some(leaves)) = told else {
        return 0;
    };
    let sealed = catch_unwind(AssertUnwindSafe(|| sealed_under(key, envs, *core, packed, leaves)));
    scrub();
    i64::from(matches!(sealed, Ok(Some(()))))
}

/// With a frame of its own, so that what is made of the key lies where ``scrub`` comes afterwards.
#[inline(never)]
fn sealed_under<'a>(
    key: &[u8; BLOCK],
    envs: impl Iterator<Item = &'a [u8]>,
    core: [u8; CORE],
    packed: &mut [u8],
    leaves: &mut [Digest],
) -> Option<()> {
    seal::seal(envs, core, &Mac::new(key), packed, leaves)
}

/// The parents of `count` nodes that stand beside each other, the first of them a left one: half as many, rounded down.
///
/// # Safety
/// `nodes` has 32 bytes for each, `parents` room for as many for each of them.
#[no_mangle]
pub unsafe extern "C" fn tr_parents(nodes: *const Digest, count: usize, parents: *mut Digest) {
    // SAFETY: as the caller promises.
    if let (Some(nodes), Some(parents)) = unsafe { (borrowed(nodes, count), lent(parents, count / 2)) } {
        let _ = catch_unwind(AssertUnwindSafe(|| seal::parents(nodes, parents)));
    }
}

/// Overwrites what calls that have returned left on the stack.
#[inline(never)]
fn scrub() {
    let mut room = [0u64; 512];
    for word in &mut room {
        // SAFETY: it is borrowed.
        unsafe { std::ptr::write_volatile(word, 0) };
    }
}

//! The interface for C, version 6. All that `unsafe` has to trust is said here; all that can be checked is.
//!
//! A scanner is used by one thread at a time. A fault in here is caught and looks like an odd first record.

use std::ffi::{c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

use crate::scan::{Columns, Scanner};
use crate::spec::Spec;

const VERSION: u32 = 6;
const MOST: usize = i32::MAX as usize;

/// Where results go, with room for `n` records, `texts` text slots and `values` number slots.
#[repr(C)]
pub struct Out {
    /// `n`
    room: usize,
    /// `[n]`: microseconds since 1970.
    times: *mut i64,
    /// `[n]`: `chainnumber`, 0 for none.
    numbers: *mut i64,
    /// `[n]`: of each id a number, the same for the same id as long as the scanner is there, another for another as a rule.
    prints: *mut i64,
    /// `[texts, n]`: the codes of the texts, -1 for none.
    texts: *mut i32,
    /// `[values, n]`: of each number slot the records that have a value, ascending, as many as `counts` says.
    rows: *mut i32,
    /// `[values, n]`: those values.
    values: *mut f64,
    /// `[values]`
    counts: *mut i64,
}

/// The version of this interface.
#[no_mangle]
pub extern "C" fn tallyroll_core_abi() -> u32 {
    VERSION
}

/// A scanner for a spec; null for a spec that it cannot take.
///
/// # Safety
/// `spec` is null or has `length` bytes.
#[no_mangle]
pub unsafe extern "C" fn tr_scanner_new(spec: *const u8, length: usize) -> *mut Scanner {
    // SAFETY: as the caller promises.
    let spec = unsafe { borrowed(spec, length) };
    let made = catch_unwind(|| Some(Box::new(Scanner::new(Spec::parse(std::str::from_utf8(spec?).ok()?)?))));
    made.ok().flatten().map_or(std::ptr::null_mut(), Box::into_raw)
}

/// Gives a scanner back.
///
/// # Safety
/// `scanner` is null or from `tr_scanner_new`, and not used any more.
#[no_mangle]
pub unsafe extern "C" fn tr_scanner_free(scanner: *mut Scanner) {
    if !scanner.is_null() {
        // SAFETY: as the caller promises.
        drop(unsafe { Box::from_raw(scanner) });
    }
}

/// Where the bytes of each of `count` objects in a list of Python's lie, and how many they are. Gives of how many it said so:
/// all, or up to the first that is no bytes, for which `bytes` has then set an exception.
///
/// So that nothing here is linked to Python, the two functions of its interface come from the caller: `PyList_GetItem` and
/// `PyBytes_AsStringAndSize`.
///
/// # Safety
/// The caller has the interpreter's lock; `list` is a list with at least `count` objects; `starts` and `lengths` have room for
/// as many.
#[no_mangle]
pub unsafe extern "C" fn tr_borrow(
    list: *mut c_void,
    count: usize,
    item: unsafe extern "C" fn(*mut c_void, isize) -> *mut c_void,
    bytes: unsafe extern "C" fn(*mut c_void, *mut *const u8, *mut isize) -> c_int,
    starts: *mut *const u8,
    lengths: *mut isize,
) -> i64 {
    for place in 0..count {
        // SAFETY: as the caller promises; the places lie inside the list and the room.
        let failed = unsafe {
            let item = item(list, place as isize);
            item.is_null() || bytes(item, starts.add(place), lengths.add(place)) != 0
        };
        if failed {
            return place as i64;
        }
    }
    count as i64
}

/// Reads `count` records, of which number `i` has `lengths[i]` bytes from `starts[i]` on.
///
/// Gives how many it has read: `count`, or up to the first record that is odd. What has been written of others means nothing.
///
/// # Safety
/// `scanner` is from `tr_scanner_new` and nobody else's now; `starts` and `lengths` have `count` numbers each, and say where
/// there are bytes that nobody changes; `out` has the room that it says.
#[no_mangle]
pub unsafe extern "C" fn tr_scan(
    scanner: *mut Scanner,
    starts: *const *const u8,
    lengths: *const isize,
    count: usize,
    out: *const Out,
) -> i64 {
    // SAFETY: as the caller promises.
    let (scanner, out) = unsafe { (scanner.as_mut(), out.as_ref()) };
    let (Some(scanner), Some(out)) = (scanner, out) else {
        return 0;
    };
    let n = out.room;
    if n == 0 || n > MOST || count > n {
        return 0;
    }
    // SAFETY: as the caller promises.
    let Some(records) = (unsafe { records(starts, lengths, count) }) else {
        return 0;
    };
    let (texts, values) = (scanner.spec().texts, scanner.spec().numbers);
    // SAFETY: as the caller promises; each is an array of its own.
    let columns = unsafe {
        (|| {
            Some(Columns {
                n,
                times: lent(out.times, n)?,
                numbers: lent(out.numbers, n)?,
                prints: lent(out.prints, n)?,
                texts: lent(out.texts, texts * n)?,
                rows: lent(out.rows, values * n)?,
                values: lent(out.values, values * n)?,
                counts: lent(out.counts, values)?,
            })
        })()
    };
    let Some(mut columns) = columns else {
        return 0;
    };
    catch_unwind(AssertUnwindSafe(|| scanner.scan(records, &mut columns))).unwrap_or(0) as i64
}

/// How many distinct texts the last scan met, and how many bytes they have.
///
/// # Safety
/// `scanner` is from `tr_scanner_new` and nobody else's now; the others can be written to.
#[no_mangle]
pub unsafe extern "C" fn tr_names_size(scanner: *const Scanner, count: *mut i64, blob: *mut i64) {
    // SAFETY: as the caller promises.
    if let (Some(scanner), Some(count), Some(blob)) = unsafe { (scanner.as_ref(), count.as_mut(), blob.as_mut()) } {
        *count = scanner.names().ends().len() as i64;
        *blob = scanner.names().blob().len() as i64;
    }
}

/// Copies those texts, a line end behind each, and where each of them ends, line end aside.
///
/// # Safety
/// `scanner` is from `tr_scanner_new` and nobody else's now; `blob` and `ends` have the room that `tr_names_size` gave.
#[no_mangle]
pub unsafe extern "C" fn tr_names_copy(scanner: *const Scanner, blob: *mut u8, ends: *mut i64) {
    // SAFETY: as the caller promises.
    if let Some(scanner) = unsafe { scanner.as_ref() } {
        // SAFETY: as the caller promises.
        unsafe {
            copy(scanner.names().blob(), blob);
            copy(scanner.names().ends(), ends);
        }
    }
}

/// How many bytes the ids of the last scan have, a line end behind each.
///
/// # Safety
/// `scanner` is from `tr_scanner_new` and nobody else's now.
#[no_mangle]
pub unsafe extern "C" fn tr_ids_size(scanner: *const Scanner) -> i64 {
    // SAFETY: as the caller promises.
    unsafe { scanner.as_ref() }.map_or(0, |scanner| scanner.ids().len() as i64)
}

/// Copies those ids, in the order of the records. None has a line end inside.
///
/// # Safety
/// `scanner` is from `tr_scanner_new` and nobody else's now; `blob` has the room that `tr_ids_size` gave.
#[no_mangle]
pub unsafe extern "C" fn tr_ids_copy(scanner: *const Scanner, blob: *mut u8) {
    // SAFETY: as the caller promises.
    if let Some(scanner) = unsafe { scanner.as_ref() } {
        // SAFETY: as the caller promises.
        unsafe { copy(scanner.ids(), blob) };
    }
}

unsafe fn copy<T: Copy>(from: &[T], to: *mut T) {
    // SAFETY: as the caller promises.
    if let Some(to) = unsafe { lent(to, from.len()) } {
        to.copy_from_slice(from);
    }
}

/// Records that lie somewhere else. What has no length, or less, is an empty one.
///
/// # Safety
/// `starts` and `lengths` have `count` numbers each, and say where there are bytes that nobody changes.
pub(crate) unsafe fn records<'a>(
    starts: *const *const u8,
    lengths: *const isize,
    count: usize,
) -> Option<impl ExactSizeIterator<Item = &'a [u8]> + Clone> {
    // SAFETY: as the caller promises.
    let (starts, lengths) = unsafe { (borrowed(starts, count)?, borrowed(lengths, count)?) };
    // SAFETY: as the caller promises.
    let record = |(start, length): (&*const u8, &isize)| unsafe { borrowed(*start, usize::try_from(*length).unwrap_or(0)) };
    Some(starts.iter().zip(lengths).map(move |one| record(one).unwrap_or_default()))
}

/// What lies at a pointer; nothing at null, unless nothing is asked for.
pub(crate) unsafe fn borrowed<'a, T>(pointer: *const T, length: usize) -> Option<&'a [T]> {
    if length == 0 {
        return Some(&[]);
    }
    // SAFETY: as the caller promises.
    (!pointer.is_null()).then(|| unsafe { slice::from_raw_parts(pointer, length) })
}

/// The same to be written to.
pub(crate) unsafe fn lent<'a, T>(pointer: *mut T, length: usize) -> Option<&'a mut [T]> {
    if length == 0 {
        return Some(&mut []);
    }
    // SAFETY: as the caller promises.
    (!pointer.is_null()).then(|| unsafe { slice::from_raw_parts_mut(pointer, length) })
}

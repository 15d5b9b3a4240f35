//! Numbers of JSON.

use crate::{Odd, Plain};

/// Whole numbers up to here, and no others, are floats without loss.
const EXACT: u64 = 1 << 53;
const TENS: [f64; 23] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];
/// So many digits cannot overflow.
const DIGITS: usize = 19;

/// A number as it was read: its value, and where it ends.
pub(crate) struct Number {
    pub(crate) end: usize,
    pub(crate) value: f64,
    /// It is whole, and its value may not be exactly it.
    pub(crate) too_long: bool,
}

/// The number that begins at `at`; what follows it is for the caller to judge. Odd: another grammar than that of JSON, no finite value.
#[inline(always)]
pub(crate) fn read(bytes: &[u8], at: usize) -> Plain<Number> {
    let byte = |place: usize| bytes.get(place).copied().unwrap_or(0);
    let negative = byte(at) == b'-';
    let first = at + usize::from(negative);
    let mut place = first;
    let mut whole: u64 = 0;
    while byte(place).is_ascii_digit() {
        whole = whole.wrapping_mul(10).wrapping_add(u64::from(byte(place) - b'0'));
        place += 1;
    }
    let digits = place - first;
    if digits == 0 || (digits > 1 && byte(first) == b'0') {
        return Err(Odd);
    }
    match byte(place) {
        b'.' | b'e' | b'E' => fraction(bytes, at, place, whole, digits),
        _ if digits <= DIGITS => {
            let value = whole as f64; // no sign where it is none: -0 is a whole number
            let value = if negative && whole != 0 { -value } else { value };
            Ok(Number { end: place, value, too_long: whole > EXACT })
        }
        _ => Ok(Number { end: place, value: long(&bytes[at..place])?, too_long: true }),
    }
}

#[inline]
fn fraction(bytes: &[u8], at: usize, point: usize, whole: u64, mut digits: usize) -> Plain<Number> {
    let byte = |place: usize| bytes.get(place).copied().unwrap_or(0);
    let (mut place, mut mantissa, mut decimals) = (point, whole, 0);
    if byte(place) == b'.' {
        place += 1;
        let first = place;
        while byte(place).is_ascii_digit() {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte(place) - b'0'));
            place += 1;
        }
        decimals = place - first;
        digits += decimals;
        if decimals == 0 {
            return Err(Odd);
        }
    }
    let has_exponent = matches!(byte(place), b'e' | b'E');
    if has_exponent {
        place += 1;
        if matches!(byte(place), b'+' | b'-') {
            place += 1;
        }
        let first = place;
        while byte(place).is_ascii_digit() {
            place += 1;
        }
        if place == first {
            return Err(Odd);
        }
    }
    // Both are floats without loss, so their quotient is rounded once (W. Clinger).
    let value = if !has_exponent && digits <= DIGITS && mantissa <= EXACT && decimals < TENS.len() {
        let value = mantissa as f64 / TENS[decimals];
        if bytes[at] == b'-' {
            -value
        } else {
            value
        }
    } else {
        long(&bytes[at..place])?
    };
    Ok(Number { end: place, value, too_long: false })
}

#[cold]
#[inline(never)]
fn long(digits: &[u8]) -> Plain<f64> {
    let value: f64 = std::str::from_utf8(digits).map_err(|_| Odd)?.parse().map_err(|_| Odd)?;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Odd)
    }
}

//! Event times in the layout that tallyroll writes: `2026-01-31T12:00:00.000000Z`, and without a fraction where that is zero.
//! With three digits of it, as many others write them, too.

use crate::{Odd, Plain};

const SECONDS: usize = 19;
const MONTHS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Reads times, and keeps the last day: neighbours are mostly of the same.
#[derive(Default)]
pub(crate) struct Moments {
    date: [u8; 10],
    days: i64,
}

impl Moments {
    /// Microseconds since 1970. Odd: any other layout, and what is no moment.
    #[inline(always)]
    pub(crate) fn read(&mut self, text: &[u8]) -> Plain<i64> {
        let (seconds, fraction) = text.split_at_checked(SECONDS).ok_or(Odd)?;
        let date: &[u8; 10] = seconds[..10].try_into().map_err(|_| Odd)?;
        if *date != self.date {
            self.days = days(date)?;
            self.date = *date;
        }
        let (hour, minute, second) = (two(seconds, 11)?, two(seconds, 14)?, two(seconds, 17)?);
        if [seconds[10], seconds[13], seconds[16]] != *b"T::" || hour > 23 || minute > 59 || second > 59 {
            return Err(Odd);
        }
        let micros = match *fraction {
            [b'.', .., b'Z'] if fraction.len() == 8 => (two(fraction, 1)? * 100 + two(fraction, 3)?) * 100 + two(fraction, 5)?,
            [b'.', _, _, last, b'Z'] if last.is_ascii_digit() => (two(fraction, 1)? * 10 + i64::from(last - b'0')) * 1_000,
            [b'Z'] => 0,
            _ => return Err(Odd),
        };
        Ok((((self.days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micros)
    }
}

#[inline(always)]
fn two(text: &[u8], at: usize) -> Plain<i64> {
    let (tens, ones) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return Err(Odd);
    }
    Ok(i64::from(tens * 10 + ones))
}

/// Days since 1970 of `2026-01-31`.
fn days(date: &[u8; 10]) -> Plain<i64> {
    let (year, month, day) = (two(date, 0)? * 100 + two(date, 2)?, two(date, 5)?, two(date, 8)?);
    if date[4] != b'-' || date[7] != b'-' || year < 1 || !(1..=12).contains(&month) {
        return Err(Odd);
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = MONTHS[month as usize - 1] + i64::from(leap && month == 2);
    if !(1..=length).contains(&day) {
        return Err(Odd);
    }
    // Years begin in March, so that the leap day is the last one (H. Hinnant, days_from_civil).
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Ok(year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468)
}

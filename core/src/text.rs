//! Escapes in strings.

use crate::{Odd, Plain};

/// What the escape at the beginning of `bytes` stands for, and how long it is. Odd: one that JSON does not have; a surrogate.
pub(crate) fn escape(bytes: &[u8]) -> Plain<(char, usize)> {
    let simple = match bytes.get(1).ok_or(Odd)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let mut code = 0;
            for digit in bytes.get(2..6).ok_or(Odd)? {
                code = code * 16 + char::from(*digit).to_digit(16).ok_or(Odd)?;
            }
            return Ok((char::from_u32(code).ok_or(Odd)?, 6));
        }
        _ => return Err(Odd),
    };
    Ok((simple, 2))
}

/// The text of a string, without its quotes, that has escapes.
pub(crate) fn unescape(bytes: &[u8], into: &mut Vec<u8>) -> Plain<()> {
    into.clear();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|one| *one == b'\\') {
        into.extend_from_slice(&rest[..at]);
        let (found, length) = escape(&rest[at..])?;
        into.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[at + length..];
    }
    into.extend_from_slice(rest);
    Ok(())
}

//! A strict look at a protobuf message before it is decoded.
//!
//! prost drops fields that it does not know, cuts numbers to the width it expects and fills in what is missing. In images
//! that we interpret or rewrite, each of these would be a silent loss; here they are errors that name message and field.

use crate::{Error, Result};

/// What we know of a message.
pub(crate) struct Message {
    /// As CRIU's `.proto` files call it.
    pub(crate) name: &'static str,
    /// By ascending number.
    pub(crate) fields: &'static [Field],
    /// What an unknown field means, where we have an idea.
    pub(crate) unknown: Option<fn(u32) -> Option<&'static str>>,
}

/// What we know of a field.
pub(crate) struct Field {
    number: u32,
    name: &'static str,
    shape: Shape,
    rule: Rule,
}

/// The type of a field.
pub(crate) enum Shape {
    /// `uint64`, `sint64`
    U64,
    /// `uint32`, an enum without negative values
    U32,
    /// `int32`, `sint32`: negative numbers take ten bytes
    I32,
    Bool,
    /// `string`, `bytes`, or a message that we do not read
    Bytes,
    Nested(&'static Message),
}

/// How often a field may stand in a message.
#[derive(PartialEq)]
pub(crate) enum Rule {
    Required,
    Optional,
    Repeated,
}

impl Field {
    pub(crate) const fn required(number: u32, name: &'static str, shape: Shape) -> Self {
        Self { number, name, shape, rule: Rule::Required }
    }
    pub(crate) const fn optional(number: u32, name: &'static str, shape: Shape) -> Self {
        Self { number, name, shape, rule: Rule::Optional }
    }
    pub(crate) const fn repeated(number: u32, name: &'static str, shape: Shape) -> Self {
        Self { number, name, shape, rule: Rule::Repeated }
    }
}

/// Checks one message: every field known, of its type and width, as often as allowed; required ones there.
///
/// `base` is the byte of the file where the message begins.
pub(crate) fn check(file: &str, base: u64, bytes: &[u8], message: &'static Message) -> Result<()> {
    Scan { file, base, bytes, at: 0, message }.run()
}

struct Scan<'a> {
    file: &'a str,
    base: u64,
    bytes: &'a [u8],
    at: usize,
    message: &'static Message,
}

impl Scan<'_> {
    fn run(mut self) -> Result<()> {
        // Every message that we know has fewer than 64 fields.
        let mut seen = 0u64;
        while self.at < self.bytes.len() {
            let start = self.at;
            let key = self.varint()?;
            let number = u32::try_from(key >> 3).ok().filter(|n| *n > 0);
            let number = number.ok_or_else(|| self.corrupt(start, "no field has this number"))?;
            let Some(index) = self.message.fields.iter().position(|f| f.number == number) else {
                return Err(self.unknown(number));
            };
            let field = &self.message.fields[index];
            if seen & (1 << index) != 0 && field.rule != Rule::Repeated {
                return Err(self.corrupt(start, format_args!("{} stands there twice", field.name)));
            }
            seen |= 1 << index;
            self.value(start, field, key & 7)?;
        }
        let missing =
            self.message.fields.iter().enumerate().find(|(i, f)| f.rule == Rule::Required && seen & (1 << i) == 0);
        match missing {
            Some((_, field)) => Err(self.corrupt(self.at, format_args!("{} is missing", field.name))),
            None => Ok(()),
        }
    }

    fn value(&mut self, start: usize, field: &Field, wire_type: u64) -> Result<()> {
        let numeric = !matches!(field.shape, Shape::Bytes | Shape::Nested(_));
        if wire_type != if numeric { 0 } else { 2 } {
            return Err(self.corrupt(start, format_args!("{} has wire type {wire_type}", field.name)));
        }
        if numeric {
            let value = self.varint()?;
            let fits = match field.shape {
                Shape::U32 => value <= u64::from(u32::MAX),
                Shape::I32 => value <= u64::from(u32::MAX) || value >= i32::MIN as i64 as u64,
                Shape::Bool => value <= 1,
                _ => true,
            };
            if !fits {
                return Err(self.corrupt(start, format_args!("{} is {value}, which is too large", field.name)));
            }
            return Ok(());
        }
        let len = self.varint()?;
        let body =
            usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).filter(|e| *e <= self.bytes.len());
        let Some(end) = body else {
            let left = self.bytes.len() - self.at;
            return Err(self.corrupt(start, format_args!("{} has {len} bytes, but only {left} follow", field.name)));
        };
        if let Shape::Nested(inner) = &field.shape {
            check(self.file, self.base + self.at as u64, &self.bytes[self.at..end], inner)?;
        }
        self.at = end;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(self.corrupt(start, "ends inside a number"));
            };
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.corrupt(start, "a number of more than 64 bits"))
    }

    fn corrupt(&self, at: usize, problem: impl std::fmt::Display) -> Error {
        let place = format!("byte {}", self.base + at as u64);
        Error::corrupt(self.file, place, format_args!("{}: {problem}", self.message.name))
    }

    fn unknown(&self, number: u32) -> Error {
        let what = match self.message.unknown.and_then(|explain| explain(number)) {
            Some(meaning) => format!("{meaning}: {} has a field {number}", self.message.name),
            None => format!("{} has a field {number}, which is not known", self.message.name),
        };
        Error::unsupported(self.file, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static INNER: Message = Message { name: "inner", unknown: None, fields: &[Field::required(1, "x", Shape::Bool)] };
    static OUTER: Message = Message {
        name: "outer",
        unknown: Some(|n| (n == 9).then_some("nine")),
        fields: &[
            Field::required(1, "u32", Shape::U32),
            Field::optional(2, "i32", Shape::I32),
            Field::repeated(3, "inner", Shape::Nested(&INNER)),
            Field::optional(4, "text", Shape::Bytes),
            Field::optional(5, "u64", Shape::U64),
        ],
    };

    /// The message after `file: `, or "ok".
    fn scan(bytes: &[u8]) -> String {
        match check("f", 100, bytes, &OUTER) {
            Ok(()) => "ok".into(),
            Err(e) => e.to_string().trim_start_matches("f: ").into(),
        }
    }

    #[test]
    fn what_is_known_passes() {
        assert_eq!(scan(&[8, 1]), "ok");
        assert_eq!(scan(&[8, 0xff, 0xff, 0xff, 0xff, 0x0f, 34, 1, b'x', 26, 2, 8, 1, 26, 2, 8, 0]), "ok");
        let minus_one = [16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(scan(&[&[8, 1], &minus_one[..]].concat()), "ok");
        assert_eq!(scan(&[8, 1, 40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "ok");
    }

    #[test]
    fn all_else_is_named() {
        assert_eq!(scan(&[]), "byte 100: outer: u32 is missing");
        assert_eq!(scan(&[8, 1, 8, 1]), "byte 102: outer: u32 stands there twice");
        assert_eq!(scan(&[8, 0x80]), "byte 101: outer: ends inside a number");
        assert_eq!(scan(&[8, 0x80, 0x80, 0x80, 0x80, 0x10]), "byte 100: outer: u32 is 4294967296, which is too large");
        assert_eq!(scan(&[8, 1, 26, 2, 8, 2]), "byte 104: inner: x is 2, which is too large");
        assert_eq!(scan(&[8, 1, 26, 0]), "byte 104: inner: x is missing");
        assert_eq!(scan(&[10, 1, 0]), "byte 100: outer: u32 has wire type 2");
        assert_eq!(scan(&[8, 1, 34, 9, 0]), "byte 102: outer: text has 9 bytes, but only 1 follow");
        assert_eq!(scan(&[0, 0]), "byte 100: outer: no field has this number");
        assert_eq!(
            scan(&[8, 1, 40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            "byte 103: outer: a number of more than 64 bits"
        );
        assert!(scan(&[48, 1]).starts_with("outer has a field 6, which is not known"));
        assert!(scan(&[72, 1]).starts_with("nine: outer has a field 9"));
    }
}

//! Bytes as people read them: `hexdump -C`, with the addresses that the process saw.

use std::fmt::Write;

/// Lines of 16 bytes; a run of equal lines is one line and a `*`; the last line is the address just past the end.
pub(crate) fn hexdump(address: u64, bytes: &[u8]) -> String {
    let mut dump = Hexdump::new(address);
    let mut text = dump.lines(bytes);
    text += &dump.end();
    text
}

/// A dump that is made piece by piece.
pub(crate) struct Hexdump {
    address: u64,
    above: Option<[u8; 16]>,
    squeezed: bool,
}

impl Hexdump {
    pub(crate) fn new(address: u64) -> Self {
        Self { address, above: None, squeezed: false }
    }

    /// The lines of what comes next: whole ones, but for the very last.
    pub(crate) fn lines(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len().saturating_mul(5));
        for line in bytes.chunks(16) {
            let whole = <[u8; 16]>::try_from(line).ok();
            if whole.is_some() && self.above == whole {
                if !self.squeezed {
                    text.push_str("*\n");
                }
                self.squeezed = true;
            } else {
                (self.above, self.squeezed) = (whole, false);
                push_line(&mut text, self.address, line);
            }
            self.address = self.address.wrapping_add(line.len() as u64);
        }
        text
    }

    /// The last line.
    pub(crate) fn end(&self) -> String {
        format!("{:016x}\n", self.address)
    }
}

fn push_line(text: &mut String, address: u64, line: &[u8]) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{address:016x} ");
    for place in 0..16 {
        if place % 8 == 0 {
            text.push(' ');
        }
        let _ = match line.get(place) {
            Some(byte) => write!(text, "{byte:02x} "),
            None => write!(text, "   "),
        };
    }
    text.push_str(" |");
    text.extend(line.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '.' }));
    text.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::{Hexdump, hexdump};

    #[test]
    fn in_pieces_it_is_the_same() {
        let mut bytes = vec![7; 4096];
        bytes[2048] = 1;
        bytes.extend([7; 4096]);
        for piece in [16, 32, 4096] {
            let mut dump = Hexdump::new(0x1000);
            let mut text: String = bytes.chunks(piece).map(|bytes| dump.lines(bytes)).collect();
            text += &dump.end();
            assert_eq!(text, hexdump(0x1000, &bytes), "{piece}");
        }
    }

    #[test]
    fn reads_like_hexdump() {
        let mut bytes = vec![0; 64];
        bytes[..5].copy_from_slice(b"hello");
        bytes.extend(b"end");
        assert_eq!(
            hexdump(0x7f00_0000_1000, &bytes),
            "\
00007f0000001000  68 65 6c 6c 6f 00 00 00  00 00 00 00 00 00 00 00  |hello...........|
00007f0000001010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
*
00007f0000001040  65 6e 64                                          |end|
00007f0000001043
"
        );
    }
}

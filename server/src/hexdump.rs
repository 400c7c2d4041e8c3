//! Bytes as people read them: `hexdump -C`, with the addresses that the process saw.

use std::fmt::Write;

/// Lines of 16 bytes; a run of equal lines is one line and a `*`; the last line is the address just past the end.
pub(crate) fn hexdump(address: u64, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(5));
    let mut above: Option<&[u8]> = None;
    let mut squeezed = false;
    for (number, line) in bytes.chunks(16).enumerate() {
        if above == Some(line) {
            if !squeezed {
                text.push_str("*\n");
            }
            squeezed = true;
            continue;
        }
        (above, squeezed) = (Some(line), false);
        push_line(&mut text, address.wrapping_add(number as u64 * 16), line);
    }
    let _ = writeln!(text, "{:016x}", address.wrapping_add(bytes.len() as u64));
    text
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
    use super::hexdump;

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

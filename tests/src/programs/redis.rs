//! redis with keys of 1 KiB.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
};

use anyhow::{Result, ensure};

use super::{CommandLine, Program, State};
use crate::{http::connect, tools};

const PORT: u16 = 6379;
const VALUE_SIZE: usize = 1024;
/// Commands sent before their replies are read: fits socket buffers in both directions.
const BATCH: usize = 64;

/// redis-server with `keys` values of 1 KiB that compress like JSON records full of
/// identifiers do: about 2 to 1, and the dump as a whole about 2.5 to 1.
pub struct Redis {
    /// How many.
    pub keys: usize,
}

impl Program for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn describe(&self) -> String {
        format!("redis-server with {} keys of 1 KiB", self.keys)
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn command(&self, folder: &Path) -> Result<CommandLine> {
        let args = ["--port", "6379", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"];
        let mut args = args.map(str::to_owned).to_vec();
        args.extend(["--dir".to_owned(), folder.display().to_string()]);
        Ok(CommandLine { program: tools::program("redis-server")?, args, env: Vec::new() })
    }

    fn ready(&self) -> Result<()> {
        let mut stream = connect(PORT)?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 7];
        stream.read_exact(&mut reply)?;
        ensure!(reply == *b"+PONG\r\n", "redis says {}", String::from_utf8_lossy(&reply));
        Ok(())
    }

    fn fill(&self) -> Result<()> {
        let mut stream = BufReader::new(connect(PORT)?);
        for first in (0..self.keys).step_by(BATCH) {
            let batch = first..self.keys.min(first + BATCH);
            let mut request = Vec::new();
            for n in batch.clone() {
                write!(request, "*3\r\n$3\r\nSET\r\n$12\r\nkey:{n:08}\r\n${VALUE_SIZE}\r\n")?;
                request.extend(value(n));
                request.extend(b"\r\n");
            }
            stream.get_mut().write_all(&request)?;
            for n in batch {
                let mut line = String::new();
                stream.read_line(&mut line)?;
                ensure!(line == "+OK\r\n", "SET key:{n:08}: {line}");
            }
        }
        Ok(())
    }

    fn items(&self) -> usize {
        self.keys
    }

    fn reply(&self, item: usize) -> Result<String> {
        check_keys(item..(item + 1).min(self.keys))?;
        Ok(format!("GET key:{item:08} -> {}", String::from_utf8_lossy(&value(item))))
    }

    fn state(&self) -> Result<State> {
        check_keys(0..self.keys)?;
        let mut stream = BufReader::new(connect(PORT)?);
        let mut state = State::new();
        stream.get_mut().write_all(b"DBSIZE\r\nGET no-such-key\r\nSCAN 0 COUNT 5\r\nQUIT\r\n")?;
        let mut replies = String::new();
        stream.read_to_string(&mut replies)?;
        ensure!(replies.starts_with(&format!(":{}\r\n$-1\r\n", self.keys)), "redis says {replies}");
        // The order of SCAN is that of the hash table, with its random seed.
        state.insert("dbsize, missing key, scan".to_owned(), replies);
        Ok(state)
    }
}

/// Compares keys with what was put there.
fn check_keys(keys: std::ops::Range<usize>) -> Result<()> {
    let mut stream = BufReader::new(connect(PORT)?);
    for first in keys.clone().step_by(BATCH) {
        let batch = first..keys.end.min(first + BATCH);
        let request: String = batch.clone().map(|n| format!("GET key:{n:08}\r\n")).collect();
        stream.get_mut().write_all(request.as_bytes())?;
        for n in batch {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            ensure!(line == format!("${VALUE_SIZE}\r\n"), "GET key:{n:08}: {line:?}");
            let mut got = [0; VALUE_SIZE + 2];
            stream.read_exact(&mut got)?;
            ensure!(got[..VALUE_SIZE] == value(n)[..], "key:{n:08} has another value than was stored");
        }
    }
    Ok(())
}

/// The value of key `n`: a JSON record of 1 KiB with random words.
fn value(n: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
    let mut random = SplitMix(n as u64);
    let mut value = format!(r#"{{"id":{n}"#).into_bytes();
    for field in 0.. {
        let name = format!(r#","field{field}":""#);
        // 20 letters of 6 bits, from two random numbers.
        let bits = [random.next(), random.next()];
        let word = (0..20).map(|letter| LETTERS[(bits[letter / 10] >> (6 * (letter % 10))) as usize % LETTERS.len()]);
        value.extend(name.into_bytes().into_iter().chain(word).chain(*b"\""));
        if value.len() > VALUE_SIZE {
            break;
        }
    }
    value.truncate(VALUE_SIZE - 1);
    value.push(b'}');
    value
}

/// The generator "splitmix64" (Vigna): a line of state, good enough to be incompressible.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

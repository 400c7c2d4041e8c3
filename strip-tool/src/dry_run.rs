//! Writes a store to nowhere: what a checkpoint would come to.

use page_store::{
    Result,
    write::{ObjectSink, ObjectWriter},
};
use std::io::{self, Write};

/// Takes objects and forgets them.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl ObjectSink for Nowhere {
    fn begin(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(Self))
    }
    fn commit(&self, _manifest: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for Nowhere {
    fn finish(self: Box<Self>, _name: &str) -> Result<()> {
        Ok(())
    }
}

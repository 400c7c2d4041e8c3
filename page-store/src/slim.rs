//! A slim dump, fetched: an unlinked temporary file and where each member lies in it.

use crate::Result;
use criu_images::{ImageSource, PagesFile};
use std::path::Path;

/// A slim dump. Nothing of it outlives this value on disk.
#[derive(Debug, Clone)]
pub struct SlimDump {}

impl SlimDump {
    /// Writes it to `dir`, which must be empty or not exist: files appear whole.
    pub fn unpack(&self, _dir: &Path) -> Result<()> {
        todo!()
    }
}

impl ImageSource for SlimDump {
    fn describe(&self, _name: &str) -> String {
        todo!()
    }
    fn names(&self) -> criu_images::Result<Vec<String>> {
        todo!()
    }
    fn read(&self, _name: &str) -> criu_images::Result<Option<Vec<u8>>> {
        todo!()
    }
    fn open(&self, _name: &str) -> criu_images::Result<Option<PagesFile>> {
        todo!()
    }
    fn parent(&self) -> criu_images::Result<Option<Box<dyn ImageSource>>> {
        todo!()
    }
}

//! Only what names a mapping: which file, which memfd. These images are copied as they are, so nothing is checked beyond that.

/// `file_entry`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FileEntry {
    #[prost(uint32, required, tag = "2")]
    pub(crate) id: u32,
    #[prost(message, optional, tag = "3")]
    pub(crate) reg: Option<RegFileEntry>,
    #[prost(message, optional, tag = "20")]
    pub(crate) memfd: Option<MemfdFileEntry>,
}

/// `reg_file_entry`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub(crate) id: u32,
    #[prost(bytes = "vec", required, tag = "6")]
    pub(crate) name: Vec<u8>,
}

/// `memfd_file_entry`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MemfdFileEntry {
    #[prost(uint32, required, tag = "1")]
    pub(crate) id: u32,
    #[prost(uint32, required, tag = "5")]
    pub(crate) inode_id: u32,
}

/// `memfd_inode_entry`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MemfdInodeEntry {
    #[prost(bytes = "vec", required, tag = "1")]
    pub(crate) name: Vec<u8>,
    #[prost(uint32, required, tag = "5")]
    pub(crate) shmid: u32,
    #[prost(uint64, required, tag = "7")]
    pub(crate) inode_id: u64,
}

use crate::wire::{Field, Message, Shape::*};

/// `pstree_entry`: one per task, parents before children.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PstreeEntry {
    #[prost(uint32, required, tag = "1")]
    pub(crate) pid: u32,
    #[prost(uint32, required, tag = "2")]
    pub(crate) ppid: u32,
    #[prost(uint32, required, tag = "3")]
    pub(crate) pgid: u32,
    #[prost(uint32, required, tag = "4")]
    pub(crate) sid: u32,
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    pub(crate) threads: Vec<u32>,
}

pub(crate) static PSTREE_ENTRY: Message = Message {
    name: "pstree_entry",
    unknown: None,
    fields: &[
        Field::required(1, "pid", U32),
        Field::required(2, "ppid", U32),
        Field::required(3, "pgid", U32),
        Field::required(4, "sid", U32),
        Field::repeated(5, "threads", U32),
    ],
};

use crate::wire::{Field, Message, Shape::*};

/// `pagemap_head`: the first entry of a pagemap.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PagemapHead {
    #[prost(uint32, required, tag = "1")]
    pub(crate) pages_id: u32,
}

/// `pagemap_entry`: all others.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PagemapEntry {
    #[prost(uint64, required, tag = "1")]
    pub(crate) vaddr: u64,
    /// `nr_pages` of CRIU up to 4.1; 4.2 writes 0 here and field 5.
    #[prost(uint32, required, tag = "2")]
    pub(crate) compat_nr_pages: u32,
    #[prost(bool, optional, tag = "3")]
    pub(crate) in_parent: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    pub(crate) flags: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) nr_pages: Option<u64>,
}

pub(crate) static PAGEMAP_HEAD: Message =
    Message { name: "pagemap_head", unknown: Some(compressed), fields: &[Field::required(1, "pages_id", U32)] };

pub(crate) static PAGEMAP_ENTRY: Message = Message {
    name: "pagemap_entry",
    unknown: Some(compressed),
    fields: &[
        Field::required(1, "vaddr", U64),
        Field::required(2, "compat_nr_pages", U32),
        Field::optional(3, "in_parent", Bool),
        Field::optional(4, "flags", U32),
        Field::optional(5, "nr_pages", U64),
    ],
};

/// Fields 6 and up came with compression (criu#2895, after 4.2).
fn compressed(field: u32) -> Option<&'static str> {
    (field >= 6).then_some("LZ4-compressed pages")
}

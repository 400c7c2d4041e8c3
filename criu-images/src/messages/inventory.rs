use crate::wire::{Field, Message, Shape::*};

/// `inventory_entry`: one per checkpoint.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InventoryEntry {
    #[prost(uint32, required, tag = "1")]
    pub(crate) img_version: u32,
    #[prost(bool, optional, tag = "2")]
    pub(crate) fdinfo_per_id: Option<bool>,
}

pub(crate) static INVENTORY_ENTRY: Message = Message {
    name: "inventory_entry",
    unknown: None,
    fields: &[
        Field::required(1, "img_version", U32),
        Field::optional(2, "fdinfo_per_id", Bool),
        Field::optional(3, "root_ids", Bytes),
        Field::optional(4, "ns_per_id", Bool),
        Field::optional(5, "root_cg_set", U32),
        Field::optional(6, "lsmtype", U32),
        Field::optional(8, "dump_uptime", U64),
        Field::optional(9, "pre_dump_mode", U32),
        Field::optional(10, "tcp_close", Bool),
        Field::optional(11, "network_lock_method", U32),
        Field::optional(12, "plugins_entry", Bytes),
        Field::optional(13, "dump_criu_run_id", Bytes),
        Field::optional(14, "allow_uprobes", Bool),
    ],
};

//! Splits a full dump into two, as `criu pre-dump` would: `cargo run -p criu-images --example chain DUMP PARENT CHILD`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dump, parent, child] = &args[..] else { return Err("usage: chain DUMP PARENT CHILD".into()) };
    Ok(criu_images::testing::split_into_chain(dump.as_ref(), parent.as_ref(), child.as_ref())?)
}

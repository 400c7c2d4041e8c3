pub(crate) fn main(_args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("not there yet")
}

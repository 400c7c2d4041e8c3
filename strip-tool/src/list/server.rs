//! What a pageferry-server has: `GET /checkpoints`.

use super::Listed;
use crate::retry::ask;
use anyhow::{Context, Result, anyhow, bail};
use page_store::{HttpAddress, HttpAnswer};
use serde::Deserialize;

/// Bytes of a list: some hundred thousand checkpoints.
const MOST: u64 = 32 << 20;
const CHECKPOINTS: &str = "checkpoints";
const ADVICE: &str = "only a pageferry-server can be listed over HTTP, a plain web server cannot: give a server's address (http://HOST:PORT), a folder, or a \
                      prefix (s3://, gs://, az://)";

#[derive(Deserialize)]
struct List {
    checkpoints: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    checkpoint_id: Option<String>,
    #[serde(default)]
    tasks: Vec<Task>,
    #[serde(default)]
    task_count: usize,
    #[serde(default)]
    dumped_bytes: u64,
    #[serde(default)]
    stored_bytes: u64,
    #[serde(default)]
    shared_bytes: u64,
    #[serde(default)]
    raw: bool,
    #[serde(default)]
    working_sets: Vec<String>,
    problem: Option<String>,
}

#[derive(Deserialize)]
struct Task {
    comm: String,
}

/// The stores of the server at an address, which may name the list itself.
pub(super) async fn stores(location: &str) -> Result<Vec<Listed>> {
    let path = HttpAddress::path_of(location)?;
    let names_it = path.iter().rfind(|part| !part.is_empty()).is_some_and(|part| part == CHECKPOINTS);
    let list = HttpAddress::below(location, if names_it { &[] } else { &[CHECKPOINTS] })?;
    let answer = ask(&list, MOST).await.with_context(|| format!("cannot list {list}"))?;
    let rows = parse(&answer).map_err(|error| anyhow!("cannot list {list}: {error:#}"))?;
    rows.into_iter().map(|row| row.listed(&list)).collect()
}

fn parse(answer: &HttpAnswer) -> Result<Vec<Row>> {
    let said = answer.said();
    match answer.status {
        200 if answer.is_html => bail!("a web page came; {ADVICE}"),
        200 => match serde_json::from_slice::<List>(&answer.body) {
            Ok(list) => Ok(list.checkpoints),
            Err(error) => bail!("what came is no list of a pageferry-server ({error}); {ADVICE}"),
        },
        401 => bail!("{said}; give a token that the server knows: --token-file FILE or PAGEFERRY_TOKEN"),
        403 => bail!("{said}; give a token with the scope read: --token-file FILE or PAGEFERRY_TOKEN"),
        300..=399 => match &answer.location {
            Some(to) => bail!("it sends us to {to}: give that address if it is meant"),
            None => bail!("{said}; {ADVICE}"),
        },
        _ => bail!("{said}; {ADVICE}"),
    }
}

impl Row {
    fn listed(self, list: &str) -> Result<Listed> {
        let mut programs: Vec<_> = self.tasks.iter().map(|task| plain(&task.comm)).collect();
        programs.sort();
        programs.dedup();
        Ok(Listed {
            store: HttpAddress::below(list, &[&self.name, "store"])?,
            checkpoint_id: self.checkpoint_id,
            programs,
            tasks: self.task_count,
            dumped: self.dumped_bytes,
            stored: self.stored_bytes,
            shared: self.shared_bytes,
            raw: self.raw,
            working_sets: self.working_sets,
            problem: self.problem.as_deref().map(plain),
        })
    }
}

/// Without what would change a terminal: a server may say anything.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

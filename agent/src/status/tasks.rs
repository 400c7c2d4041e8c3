//! What each task of the checkpoint still lacks, as the engine last told.

use serde::Serialize;
use std::sync::{Mutex, PoisonError};

/// Tasks that are listed by pid. Each is a time series for whoever reads the metrics, so their number is bounded; the others are one row.
const MOST: usize = 256;

/// A task, with the children that it forked since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskMissing {
    /// Virtual pid; absent for the row that stands for all tasks past the first 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Program name.
    pub comm: String,
    /// Processes that lack pages.
    pub processes: u64,
    /// Pages that they lack.
    pub pages_missing: u64,
}

/// One row per task, in the order of the checkpoint.
#[derive(Debug, Default)]
pub struct TaskTable(Mutex<Vec<TaskMissing>>);

impl TaskTable {
    /// Begins with these tasks, pid and program name.
    pub(crate) fn name<'a>(&self, tasks: impl Iterator<Item = (u32, &'a str)>) {
        let row = |pid, comm: &str| TaskMissing { pid, comm: comm.to_owned(), processes: 0, pages_missing: 0 };
        let mut rows: Vec<_> = tasks.take(MOST + 1).map(|(pid, comm)| row(Some(pid), comm)).collect();
        if rows.len() > MOST {
            rows[MOST] = row(None, "others");
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    /// Takes what every process lacks: the position of its task, and pages. If somebody reads just now, nothing is taken: the engine
    /// does not wait for anybody.
    pub(crate) fn publish(&self, processes: impl Iterator<Item = (u32, u64)>) {
        let Ok(mut rows) = self.0.try_lock() else { return };
        rows.iter_mut().for_each(|row| (row.processes, row.pages_missing) = (0, 0));
        for (task, pages) in processes.filter(|(_, pages)| *pages > 0) {
            let position = usize::try_from(task).unwrap_or(usize::MAX).min(MOST);
            if let Some(row) = rows.get_mut(position) {
                row.processes += 1;
                row.pages_missing += pages;
            }
        }
    }

    /// A copy, at most a heartbeat of the engine old.
    pub fn rows(&self) -> Vec<TaskMissing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_count_for_their_task_and_the_last_word_counts() {
        let table = TaskTable::default();
        table.name([(10, "a"), (11, "b")].into_iter());
        table.publish([(0, 5), (1, 7), (0, 2), (1, 0)].into_iter());
        let row = |pid, comm: &str, processes, pages_missing| TaskMissing {
            pid: Some(pid),
            comm: comm.into(),
            processes,
            pages_missing,
        };
        assert_eq!(table.rows(), [row(10, "a", 2, 7), row(11, "b", 1, 7)]);
        table.publish([(1, 3)].into_iter());
        assert_eq!(table.rows(), [row(10, "a", 0, 0), row(11, "b", 1, 3)]);
    }

    #[test]
    fn past_a_bound_tasks_share_a_row() {
        let table = TaskTable::default();
        table.name((1..=1000).map(|pid| (pid, "x")));
        table.publish((0..1000).map(|task| (task, 1)));
        let rows = table.rows();
        assert_eq!(rows.len(), MOST + 1);
        assert_eq!(rows[MOST].pid, None);
        assert_eq!(rows[MOST].pages_missing, 1000 - MOST as u64);
        assert!(rows[..MOST].iter().all(|row| row.pid.is_some() && row.pages_missing == 1));
    }

    #[test]
    fn exactly_as_many_as_are_listed_need_no_shared_row() {
        let table = TaskTable::default();
        table.name((1..=MOST as u32).map(|pid| (pid, "x")));
        assert!(table.rows().iter().all(|row| row.pid.is_some()));
    }
}

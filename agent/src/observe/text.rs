//! The text format of Prometheus (version 0.0.4).

use std::fmt::{Display, Write};

/// A page being written.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.0, name }
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "counter", help).sample("", &[], value);
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "gauge", help).sample("", &[], value);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// A family being written.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// One line; `suffix` is for the parts of a histogram.
    pub(super) fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (at, (label, content)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(content));
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// A program may give itself any name.
fn escaped(content: &str) -> String {
    content.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

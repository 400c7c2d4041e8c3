//! Bars, as SVG.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow};
use plotters::{
    prelude::{IntoDrawingArea, RGBColor, Rectangle, SVGBackend, Text, WHITE},
    style::{
        Color, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::report::Bar;

const WIDTH: u32 = 900;
/// Pixels of a bar, of what separates two groups, of the axis below; of names left of the bars.
const BAR: u32 = 16;
const GAP: u32 = 26;
const AXIS: u32 = 30;
const NAMES: u32 = 190;

/// One file for each plot, below `folder`. Gives their names and titles.
pub(crate) fn draw(bars: &[Bar], folder: &Path) -> Result<Vec<(String, String)>> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut plots = BTreeMap::<&str, Vec<&Bar>>::new();
    bars.iter().filter(|bar| bar.value > 0.0).for_each(|bar| plots.entry(&bar.plot).or_default().push(bar));
    let mut files = Vec::new();
    for (title, bars) in plots {
        let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name = format!("{}.svg", title.chars().map(word).collect::<String>().replace("--", "-"));
        let title = format!("First reply, {title}");
        plot(&title, &bars, &folder.join(&name)).map_err(|error| anyhow!("drawing {name}: {error}"))?;
        files.push((name, title));
    }
    Ok(files)
}

fn plot(title: &str, bars: &[&Bar], file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let groups = bars.chunk_by(|a, b| a.group == b.group).count() as u32;
    let height = GAP + groups * GAP + bars.len() as u32 * BAR + AXIS;
    let root = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let style = |size| TextStyle::from(("sans-serif", size));
    root.draw(&Text::new(format!("{title}, milliseconds (logarithmic)"), (8, 6), style(15)))?;
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let least = bars.iter().map(|bar| bar.value).fold(f64::INFINITY, f64::min);
    let (from, to) = ((least / 2.0).log10(), (most * 1.6).log10());
    let x = |value: f64| NAMES as i32 + ((value.log10() - from) / (to - from) * f64::from(WIDTH - NAMES)) as i32;
    let mut y = GAP as i32;
    for group in bars.chunk_by(|a, b| a.group == b.group) {
        root.draw(&Text::new(group[0].group.clone(), (8, y + 8), style(13)))?;
        y += GAP as i32;
        for bar in group {
            let colour = match bar.label.starts_with("CRIU") {
                true => RGBColor(0xb0, 0xb0, 0xb8),
                false => RGBColor(0x2f, 0x7d, 0xc4),
            };
            let right = Pos::new(HPos::Right, VPos::Top);
            root.draw(&Text::new(bar.label, (NAMES as i32 - 6, y + 1), style(11).pos(right)))?;
            root.draw(&Rectangle::new([(NAMES as i32, y), (x(bar.value), y + BAR as i32 - 3)], colour.filled()))?;
            root.draw(&Text::new(format!("{:.0}", bar.value), (x(bar.value) + 4, y + 1), style(11)))?;
            y += BAR as i32;
        }
    }
    root.present()?;
    Ok(())
}

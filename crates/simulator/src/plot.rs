//! Figures.

use std::path::{Path, PathBuf};

use plotters::prelude::*;

use crate::report::{Point, Report, Worst};

const SIZE: (u32, u32) = (1_300, 480);
/// Where the names of the lines begin; on the lines they would hide some.
const NAMES: u32 = 760;
/// From one name to the next.
const NAME: i32 = 22;
const FONT: (&str, u32) = ("sans-serif", 14);

/// Why a figure isn't written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// The file system refuses.
    #[error("{} can't be written: {error}; name another folder", path.display())]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The figure can't be drawn.
    #[error("a figure can't be drawn: {reason}")]
    Draw {
        /// Why not.
        reason: String,
    },
}

impl PlotError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Write { .. } => "TRB-M691",
            Self::Draw { .. } => "TRB-M692",
        }
    }
}

/// Writes `attacks-*.svg` (purchases at dishonest providers by day, for each burn and weight of ratings) and `spending.svg` (the curve, if
/// there is one).
///
/// # Errors
/// [`PlotError`].
pub fn write_plots(report: &Report, folder: &Path) -> Result<(), PlotError> {
    std::fs::create_dir_all(folder).map_err(|error| PlotError::Write { path: folder.to_owned(), error })?;
    for &network in &report.plan.networks {
        for &burn in &report.plan.burns {
            let with = if network > 0.0 { "with" } else { "without" };
            let cells =
                report.cells.iter().filter(|cell| cell.burn_bps == burn && cell.network.total_cmp(&network).is_eq());
            let worst =
                cells.flat_map(|cell| [Some(&cell.dishonest), cell.in_part.as_ref()].map(|worst| (cell, worst)));
            let lines: Vec<_> = worst
                .filter_map(|(cell, worst)| Some((format!("{}: {}", cell.attack, worst?.tactic), by_day(worst?))))
                .collect();
            let title = format!("Purchases at dishonest providers by day, burn {burn} bps, {with} ratings of others");
            let svg = chart(&title, "day", &lines)?;
            write(&folder.join(format!("attacks-{burn}-{with}.svg")), &svg)?;
        }
    }
    if !report.curve.is_empty() {
        let line = |network: f64, what: &str, share: fn(&Point) -> f64| {
            let points = report.curve.iter().filter(|point| point.network.total_cmp(&network).is_eq());
            let with = if network > 0.0 { "with" } else { "without" };
            let points: Vec<_> = points.map(|point| (point.spending * 100.0, share(point) * 100.0)).collect();
            (format!("{what}, {with} ratings of others"), points)
        };
        let networks = report.plan.networks.iter();
        let lines: Vec<_> = networks
            .flat_map(|&network| {
                let dishonest = line(network, "at dishonest providers", |point| point.dishonest);
                let in_part = line(network, "at those that serve in part", |point| point.in_part);
                [dishonest, in_part, line(network, "cheated", |point| point.cheated)]
            })
            .collect();
        let svg = chart("Attack spending against share, all together", "spending, % of honest spending", &lines)?;
        write(&folder.join("spending.svg"), &svg)?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // Counts of purchases and days.
fn by_day(worst: &Worst) -> Vec<(f64, f64)> {
    let share = |count: u64, purchases: u64| count as f64 * 100.0 / purchases.max(1) as f64;
    let days = worst.outcome.days.iter().enumerate();
    days.map(|(day, sum)| (day as f64 + 1.0, share(sum.dishonest, sum.purchases))).collect()
}

fn write(path: &Path, svg: &str) -> Result<(), PlotError> {
    std::fs::write(path, svg).map_err(|error| PlotError::Write { path: path.to_owned(), error })
}

fn chart(title: &str, across: &str, lines: &[(String, Vec<(f64, f64)>)]) -> Result<String, PlotError> {
    let mut svg = String::new();
    draw(&mut svg, title, across, lines).map_err(|error| PlotError::Draw { reason: error.to_string() })?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    title: &str,
    across: &str,
    lines: &[(String, Vec<(f64, f64)>)],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, line)| line);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points().map(|point| point.1).fold(6.0, f64::max) * 1.05;
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, names) = root.split_horizontally(NAMES);
    let mut chart = ChartBuilder::on(&left)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart.configure_mesh().x_desc(across).y_desc("% of purchases").label_style(FONT).draw()?;
    let bar = crate::report::BAR * 100.0;
    let mut height = 40;
    let mut named = |label: &str, style: ShapeStyle| {
        names.draw(&PathElement::new([(0, height), (24, height)], style))?;
        let drawn = names.draw(&Text::new(label.to_owned(), (32, height - 6), ("sans-serif", 12)));
        height += NAME;
        drawn
    };
    let grey = BLACK.mix(0.5).into();
    chart.draw_series(LineSeries::new([(0.0, bar), (right, bar)], grey))?;
    named("the bar, for the mean after day 30", grey)?;
    for (place, (label, line)) in lines.iter().enumerate() {
        let style = Palette99::pick(place).stroke_width(2);
        chart.draw_series(LineSeries::new(line.iter().copied(), style))?;
        named(label, style)?;
    }
    root.present()?;
    Ok(())
}

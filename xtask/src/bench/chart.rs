//! Plots of figures as SVG. Text stays text: no font is looked for here, the
//! viewer's sans-serif is used.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What is drawn.
#[derive(Debug, Clone)]
pub(crate) enum Chart {
    /// Horizontal bars. Each has a value a series, which follow one another in
    /// time, so they are drawn within each other.
    Bars {
        /// What is along the axis, with its unit.
        axis: String,
        series: Vec<String>,
        bars: Vec<(String, Vec<Option<f64>>)>,
    },
    /// Lines with a mark at each point.
    Lines {
        x: String,
        y: String,
        lines: Vec<(String, Vec<(f64, f64)>)>,
    },
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome = Result<(), Box<dyn Error>>;

const WIDTH: u32 = 960;
const TITLE_HEIGHT: u32 = 40;
const BAR_HEIGHT: u32 = 26;
/// Axis, its description, the legend.
const FRAME_HEIGHT: u32 = 100;
const LINES_HEIGHT: u32 = 440;
/// Below each.
const GAP: u32 = 24;
/// Room for the names of bars.
const NAMES_WIDTH: u32 = 290;

/// Told apart by most people who do not see all colours, and in grey (Okabe and
/// Ito's set, the dark ones first).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(90, 90, 90),
    RGBColor(170, 150, 0),
];

fn colour(at: usize) -> RGBColor {
    COLOURS.get(at % COLOURS.len()).copied().unwrap_or(BLACK)
}

/// The charts one below the other.
pub(crate) fn svg(title: &str, charts: &[Chart]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    let height = TITLE_HEIGHT + charts.iter().map(Chart::height).sum::<u32>();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, mut rest) = root.split_vertically(TITLE_HEIGHT);
        head.draw_text(title, &centred(20, HPos::Center), (480, 22))?;
        for chart in charts {
            let (area, below) = rest.split_vertically(chart.height());
            // Not where the next one begins: its legend is nearer than the axis then.
            chart.draw(&area.margin(0, GAP, 0, 0))?;
            rest = below;
        }
        root.present()?;
    }
    Ok(text)
}

fn centred(size: u32, horizontal: HPos) -> TextStyle<'static> {
    ("sans-serif", size)
        .into_text_style(&(WIDTH, WIDTH))
        .pos(Pos::new(horizontal, VPos::Center))
}

impl Chart {
    fn height(&self) -> u32 {
        match self {
            Self::Bars { bars, .. } => {
                FRAME_HEIGHT + BAR_HEIGHT * u32::try_from(bars.len()).unwrap_or(0)
            }
            Self::Lines { .. } => LINES_HEIGHT,
        }
    }

    fn draw(&self, area: &Area<'_>) -> Outcome {
        match self {
            Self::Bars { axis, series, bars } => draw_bars(area, axis, series, bars),
            Self::Lines { x, y, lines } => draw_lines(area, x, y, lines),
        }
    }
}

/// The end of an axis that has to show `values`; never empty.
fn end(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    if most > 0.0 { most * 1.08 } else { 1.0 }
}

fn draw_bars(
    area: &Area<'_>,
    axis: &str,
    series: &[String],
    bars: &[(String, Vec<Option<f64>>)],
) -> Outcome {
    let values = bars.iter().flat_map(|(_, values)| values).flatten();
    let most = end(values.copied());
    let count = bars.len().max(1) as f64;
    let (legend, area) = area.split_vertically(26);
    draw_legend(&legend, series)?;
    let mut chart = ChartBuilder::on(&area)
        .margin_right(30)
        .x_label_area_size(46)
        .y_label_area_size(NAMES_WIDTH)
        // The first bar is the topmost.
        .build_cartesian_2d(0.0..most, count..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(WHITE)
        .y_labels(0)
        .x_desc(axis)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    let (left, top) = area.get_base_pixel();
    for (at, (name, values)) in bars.iter().enumerate() {
        let row = at as f64;
        // The later ones first, so that the earlier ones lie on them.
        for (number, value) in values.iter().enumerate().rev() {
            let Some(value) = value else { continue };
            let bar = Rectangle::new(
                [(0.0, row + 0.16), (*value, row + 0.84)],
                colour(number).filled(),
            );
            chart.draw_series(std::iter::once(bar))?;
        }
        let (x, y) = chart.backend_coord(&(0.0, row + 0.5));
        let place = |x: i32| (x - left, y - top);
        area.draw_text(name, &centred(14, HPos::Right), place(x - 8))?;
        // Nothing measured is not the same as nothing.
        let last = values.iter().flatten().copied().reduce(f64::max);
        let (x, _) = chart.backend_coord(&(last.unwrap_or(0.0), row));
        let figure = last.map_or("-".to_owned(), figure);
        area.draw_text(&figure, &centred(12, HPos::Left), place(x + 4))?;
    }
    Ok(())
}

/// Three digits that count.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// Squares and names in a row.
fn draw_legend(area: &Area<'_>, series: &[String]) -> Outcome {
    let mut x = i32::try_from(NAMES_WIDTH)?;
    for (at, name) in series.iter().enumerate() {
        let square = [(x, 6), (x + 14, 20)];
        area.draw(&Rectangle::new(square, colour(at).filled()))?;
        area.draw_text(name, &centred(14, HPos::Left), (x + 20, 13))?;
        // Text is not measured, since the font is the viewer's: eight pixels a
        // letter are more than any takes on average.
        x += 20 + 8 * i32::try_from(name.chars().count())? + 22;
    }
    Ok(())
}

fn draw_lines(area: &Area<'_>, x: &str, y: &str, lines: &[(String, Vec<(f64, f64)>)]) -> Outcome {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let (most_x, most_y) = (
        end(points().map(|point| point.0)),
        end(points().map(|point| point.1)),
    );
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(30)
        .x_label_area_size(52)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..most_x, 0.0..most_y)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x)
        .y_desc(y)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for (at, (name, points)) in lines.iter().enumerate() {
        let style = colour(at).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        let marks = points
            .iter()
            .map(|point| Circle::new(*point, 4, colour(at).filled()));
        chart.draw_series(marks)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_names_an_axis_and_figures() {
        let bars = Chart::Bars {
            axis: "seconds".to_owned(),
            series: vec!["exec".to_owned(), "multi-user".to_owned()],
            bars: vec![
                ("ours <1>".to_owned(), vec![Some(1.25), Some(4.5)]),
                ("theirs".to_owned(), vec![None, Some(9.0)]),
            ],
        };
        let text = svg("Boot", &[bars]).unwrap();
        for word in [
            "Boot",
            "seconds",
            "exec",
            "multi-user",
            "ours &lt;1&gt;",
            "theirs",
        ] {
            assert!(text.contains(word), "{word}");
        }
        // The longest value of each bar.
        assert!(text.contains("4.50") && text.contains("9.00"));
        // Three bars, two squares of the legend, the background.
        assert_eq!(text.matches("<rect").count(), 6);
    }

    #[test]
    fn lines_have_both_axes_and_a_mark_a_point() {
        let lines = Chart::Lines {
            x: "image, MiB".to_owned(),
            y: "time, s".to_owned(),
            lines: vec![(
                "ours".to_owned(),
                vec![(16.0, 1.0), (64.0, 1.1), (256.0, 1.2)],
            )],
        };
        let text = svg("Scale", &[lines.clone(), lines]).unwrap();
        for word in ["image, MiB", "time, s", "ours"] {
            assert_eq!(text.matches(&format!("\n{word}\n")).count(), 2, "{word}");
        }
        assert_eq!(text.matches("<circle").count(), 6);
    }

    #[test]
    fn nothing_measured_is_still_a_plot() {
        let bars = Chart::Bars {
            axis: "s".to_owned(),
            series: Vec::new(),
            bars: Vec::new(),
        };
        let lines = Chart::Lines {
            x: "x".to_owned(),
            y: "y".to_owned(),
            lines: vec![("none".to_owned(), vec![(f64::NAN, 0.0)])],
        };
        assert!(svg("Empty", &[bars, lines]).unwrap().ends_with("</svg>\n"));
    }
}

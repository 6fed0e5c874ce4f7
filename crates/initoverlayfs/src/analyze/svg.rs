//! The chart as SVG: the whole boot, storage-init's stages, the modules. Text stays
//! text, so no font is needed to draw it.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{self, Row};

/// A part of the chart, with an axis of its own.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) rows: Vec<(Row, Colour)>,
}

/// What a bar's colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    /// Firmware, loader, kernel: before storage-init.
    Before,
    /// storage-init.
    Own,
    /// The image's init and the system.
    After,
    /// A module or pack that was of use.
    Useful,
    /// One that was not.
    Useless,
}

impl Colour {
    fn rgb(self) -> RGBColor {
        match self {
            Self::Before => RGBColor(0x7a, 0x85, 0x91),
            Self::Own => RGBColor(0x0b, 0x6e, 0x4f),
            Self::After => RGBColor(0x35, 0x68, 0xa8),
            Self::Useful => RGBColor(0x4f, 0x9d, 0x82),
            Self::Useless => RGBColor(0xc8, 0x55, 0x3d),
        }
    }
}

const WIDTH: i32 = 1000;
const ROW: i32 = 20;
/// Title and axis of a panel.
const HEAD: i32 = 34;
const FOOT: i32 = 30;
const MARGIN: i32 = 16;
/// Where bars begin and end; labels are before, times behind.
const LEFT: i32 = 230;
const RIGHT: i32 = 910;

/// A viewer copes with no more; the slowest are kept by the caller.
pub(super) const MAX_ROWS: usize = 400;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), String>;

/// Draws the panels one below the other.
///
/// # Errors
/// The drawing library's.
pub(super) fn draw(title: &str, panels: &[Panel]) -> Result<String, String> {
    let rows = |panel: &Panel| i32::try_from(panel.rows.len()).unwrap_or(0);
    let heights = panels.iter().map(|panel| HEAD + FOOT + ROW * rows(panel));
    let height = 2 * MARGIN + ROW + heights.sum::<i32>();
    let mut text = String::new();
    {
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(|e| e.to_string())?;
        put(&area, title, (MARGIN, MARGIN + ROW / 2), 17, HPos::Left)?;
        let mut top = 2 * MARGIN + ROW;
        for panel in panels {
            self::panel(&area, panel, top)?;
            top += HEAD + FOOT + ROW * rows(panel);
        }
        area.present().map_err(|e| e.to_string())?;
    }
    Ok(text)
}

fn panel(area: &Area<'_>, panel: &Panel, top: i32) -> Drawn {
    put(area, &panel.title, (MARGIN, top + 10), 14, HPos::Left)?;
    let begin = panel.rows.iter().map(|(row, _)| row.at_us).min();
    let begin = begin.unwrap_or(0);
    let ends = panel.rows.iter().map(|(row, _)| end(row));
    let all = ends.max().unwrap_or(0).saturating_sub(begin).max(1);
    let x = |us: i64| {
        let from = i128::from(us.saturating_sub(begin));
        let at = from * i128::from(RIGHT - LEFT) / i128::from(all);
        LEFT + i32::try_from(at).unwrap_or(0).clamp(0, RIGHT - LEFT)
    };
    let first = top + HEAD - 8;
    let last = first + ROW * i32::try_from(panel.rows.len()).unwrap_or(0);
    let step = step(all.unsigned_abs());
    let mut tick = begin.div_euclid(step).saturating_mul(step);
    while tick <= begin.saturating_add(all) {
        if tick >= begin {
            let grid = PathElement::new(
                vec![(x(tick), first), (x(tick), last)],
                RGBColor(0xdd, 0xdd, 0xdd),
            );
            area.draw(&grid).map_err(|e| e.to_string())?;
            put(area, &axis(tick), (x(tick), last + 9), 11, HPos::Center)?;
        }
        tick = tick.saturating_add(step);
    }
    put(area, "s", (RIGHT + 24, last + 9), 11, HPos::Left)?;
    let mut y = first;
    for (row, colour) in &panel.rows {
        let middle = y + ROW / 2;
        let label: String = row.label.chars().take(32).collect();
        put(area, &label, (LEFT - 8, middle), 12, HPos::Right)?;
        let (from, to) = (x(row.at_us), x(end(row)).max(x(row.at_us) + 1));
        let bar = Rectangle::new([(from, y + 3), (to, y + ROW - 3)], colour.rgb().filled());
        area.draw(&bar).map_err(|e| e.to_string())?;
        let mut time = chart::time(row.us);
        if !row.remark.is_empty() {
            time = format!("{time} {}", row.remark);
        }
        // Behind the bar, or before it where there is no room.
        match to > RIGHT - 60 && from > LEFT + 200 {
            true => put(area, &time, (from - 5, middle), 11, HPos::Right)?,
            false => put(area, &time, (to + 5, middle), 11, HPos::Left)?,
        }
        y += ROW;
    }
    Ok(())
}

fn end(row: &Row) -> i64 {
    row.at_us.saturating_add_unsigned(row.us)
}

/// Between two ticks, in microseconds: 1, 2 or 5 times a power of ten, and about
/// eight of them.
fn step(all: u64) -> i64 {
    let mut power: i64 = 1;
    loop {
        for factor in [1, 2, 5] {
            let step = power.saturating_mul(factor);
            if step.unsigned_abs().saturating_mul(8) >= all {
                return step;
            }
        }
        power = power.saturating_mul(10);
    }
}

/// A tick's time in seconds, as many decimals as it needs.
fn axis(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "" };
    let us = us.unsigned_abs();
    let text = format!("{sign}{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn put(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, across: HPos) -> Drawn {
    let style = ("sans-serif", size)
        .into_font()
        .color(&RGBColor(0x22, 0x22, 0x22))
        .pos(Pos::new(across, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(step(8), 1);
        assert_eq!(step(1_000_000), 200_000);
        assert_eq!(step(12_000_000), 2_000_000);
        assert!(step(u64::MAX) > 0);
        assert_eq!(axis(-2_500_000), "-2.5");
        assert_eq!(axis(0), "0");
        assert_eq!(axis(10_000_000), "10");
    }

    #[test]
    fn names_are_escaped() {
        let row = Row {
            label: "<a&\"b>".into(),
            at_us: 0,
            us: 5,
            remark: String::new(),
        };
        let panel = Panel {
            title: "</text>".into(),
            rows: vec![(row, Colour::Own)],
        };
        let text = draw("x", &[panel]).unwrap();
        assert!(!text.contains("<a&"), "{text}");
        assert!(text.contains("&lt;a&amp;"), "{text}");
        assert_eq!(
            text.matches("</text>").count(),
            text.matches("<text").count()
        );
    }
}

//! The rows of the bench: what is measured of each, and what is said of one that
//! does not come to its end.

use std::fs;
use std::io;
use std::time::Duration;

use vmtest::guest;

use super::KERNEL;
use crate::bench::report::Row;
use crate::bench::{median, mib, sorted};
use crate::boots::{Cost, Way};

/// Who has to answer for a way that does not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The project, or the bench itself: the family fails.
    Ours,
    /// Other generators: its row says nothing, and a note says why.
    Peers,
}

/// A row to be measured, and how far it is known not to come.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) whose: Whose,
    /// Whether it is measured to multi-user and by wall time.
    pub(super) far: bool,
    /// `None` if it could not be made.
    pub(super) way: Option<Way>,
    /// What kept it from being made or from the root's init.
    pub(super) no_root: Option<String>,
    /// What kept it from multi-user.
    pub(super) no_multi_user: Option<String>,
    /// Its boots to the root's init, counted in instructions.
    pub(super) costs: Vec<Cost>,
    /// The same to multi-user.
    pub(super) ends: Vec<Duration>,
}

impl Subject {
    pub(super) fn new(name: &'static str, whose: Whose, made: Result<Way, String>) -> Self {
        let (way, no_root) = match made {
            Ok(way) => (Some(way), None),
            Err(error) => (None, Some(format!("could not be made: {error}"))),
        };
        if let Some(reason) = &no_root {
            println!("{name} {reason}");
        }
        Self {
            name,
            whose,
            far: true,
            way,
            no_root,
            no_multi_user: None,
            costs: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// The way, if it reaches the root's init as far as is known.
    pub(super) fn to_root(&self) -> Option<&Way> {
        self.way.as_ref().filter(|_| self.no_root.is_none())
    }

    /// The way to multi-user; none of one that reaches no root.
    pub(super) fn to_multi_user(&self) -> Option<Way> {
        let way = self.to_root()?;
        match self.no_multi_user {
            None if self.far => to_multi_user(way),
            _ => None,
        }
    }

    pub(super) fn failure(&self) -> Option<String> {
        let reasons = [&self.no_root, &self.no_multi_user];
        let mut reasons = reasons.into_iter().flatten();
        let reason = reasons.next()?;
        Some(format!("{} {reason}", self.name))
    }
}

/// What the report says of rows without figures.
pub(super) fn notes_of_failures(subjects: &[Subject]) -> Vec<String> {
    let failures = subjects.iter().filter_map(Subject::failure);
    failures.map(|failure| format!("{failure}.")).collect()
}

/// What keeps the family from being recorded.
pub(super) fn failures_of_ours(subjects: &[Subject]) -> Vec<String> {
    let ours = subjects.iter().filter(|s| s.whose == Whose::Ours);
    ours.filter_map(Subject::failure).collect()
}

/// Seconds by wall time, a round each.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    pub(super) first: Vec<f64>,
    pub(super) root: Vec<f64>,
    pub(super) multi_user: Vec<f64>,
    pub(super) ratios: Vec<f64>,
}

impl Times {
    /// Medians. What failed in one round has no figure: the others' would be of
    /// fewer rounds than those that they are compared with.
    pub(super) fn row(self, subject: &Subject) -> Row {
        let root = subject.no_root.is_none();
        let all = root && subject.no_multi_user.is_none();
        let figures = [
            (self.first, root),
            (self.root, root),
            (self.multi_user, all),
            (self.ratios, all),
        ];
        let cells =
            figures.map(|(mut values, counts)| middle(&mut values).filter(|_| counts).into());
        Row::new(subject.name, cells.to_vec())
    }
}

/// The median; of two figures that are in the middle what lies between them.
pub(super) fn middle(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = median(values)?;
    match values.len() % 2 {
        0 => values
            .get(values.len() / 2 - 1)
            .map(|lower| (lower + upper) / 2.0),
        _ => Some(upper),
    }
}

/// The same boot, on to multi-user; none of a way that reaches no root.
pub(super) fn to_multi_user(way: &Way) -> Option<Way> {
    let init = format!("init={}", guest::MARK);
    (way.name != KERNEL).then(|| Way {
        append: way.append.replace(&init, ""),
        ..way.clone()
    })
}

/// What was counted of `subject`; nothing of what failed in any run.
pub(super) fn row(subject: &Subject) -> io::Result<Row> {
    let whole = subject.no_root.is_none();
    let costs: &[Cost] = if whole { &subject.costs } else { &[] };
    let all = whole && subject.no_multi_user.is_none();
    let end = subject.ends.iter().min().filter(|_| all).copied();
    let first = sorted(costs.iter().filter_map(|cost| cost.first_init).collect());
    let mark = sorted(costs.iter().filter_map(|cost| cost.mark).collect());
    let read = sorted(costs.iter().map(|cost| cost.read).collect());
    let touched = sorted(costs.iter().map(|cost| cost.touched).collect());
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let initrd = match &subject.way {
        Some(way) => Some(mib(fs::metadata(&way.initrd)?.len())),
        None => None,
    };
    let cells = vec![
        seconds(median(&first)).into(),
        seconds(first.first().copied()).into(),
        seconds(median(&mark)).into(),
        seconds(mark.first().copied()).into(),
        seconds(end).into(),
        initrd.into(),
        median(&read).map(mib).into(),
        median(&touched).map(mib).into(),
    ];
    Ok(Row::new(subject.name, cells))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::FILE;
    use super::*;
    use crate::bench::report::Cell;

    fn way(name: &str, append: &str) -> Way {
        Way {
            name: name.to_owned(),
            initrd: PathBuf::new(),
            append: append.to_owned(),
            disk: PathBuf::new(),
        }
    }

    fn cost(seconds: u64) -> Cost {
        let at = |more| Some(Duration::from_secs(seconds + more));
        Cost {
            first_init: at(0),
            mark: at(1),
            root_init: None,
            multi_user: None,
            read: 1 << 20,
            touched: 2 << 20,
        }
    }

    #[test]
    fn a_way_that_fails_has_no_figures_and_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let initrd = folder.path().join("initrd");
        fs::write(&initrd, vec![0; 1 << 20]).unwrap();
        let made = Way {
            initrd,
            ..way("mkosi-initrd", "")
        };
        let mut subject = Subject::new("mkosi-initrd", Whose::Peers, Ok(made));
        subject.costs = vec![cost(3), cost(2)];
        subject.ends = [12, 9].map(Duration::from_secs).to_vec();
        let cells = row(&subject).unwrap().cells;
        assert_eq!(
            cells,
            [3.0, 2.0, 4.0, 3.0, 9.0, 1.0, 1.0, 2.0].map(Cell::from)
        );
        assert!(notes_of_failures(&[]).is_empty() && subject.failure().is_none());

        subject.no_multi_user = Some("ended before multi-user".to_owned());
        assert!(subject.to_root().is_some() && subject.to_multi_user().is_none());
        let cells = row(&subject).unwrap().cells;
        assert_eq!(cells[3..6], [3.0.into(), Cell::Nothing, 1.0.into()]);

        // The second of two runs failed: what the first took is of no use.
        subject.no_root = Some("ended before the root's init".to_owned());
        subject.costs.pop();
        let cells = row(&subject).unwrap().cells;
        assert_eq!(cells[5], Cell::from(1.0));
        let nothing = cells.iter().filter(|cell| **cell == Cell::Nothing);
        assert_eq!(nothing.count(), 7);
        let times = Times {
            root: vec![1.0],
            ..Times::default()
        };
        assert_eq!(times.row(&subject).cells, vec![Cell::Nothing; 4]);
        assert_eq!(
            notes_of_failures(&[subject]),
            ["mkosi-initrd ended before the root's init."]
        );
    }

    #[test]
    fn only_failures_of_ours_keep_the_figures_from_being_recorded() {
        let peer = Subject::new("theirs", Whose::Peers, Err("no network".to_owned()));
        let mut ours = Subject::new("ours", Whose::Ours, Ok(way("ours", "")));
        assert!(peer.to_root().is_none() && peer.to_multi_user().is_none());
        let cells = row(&peer).unwrap().cells;
        assert_eq!(cells, vec![Cell::Nothing; 8]);
        ours.no_multi_user = Some("ended before multi-user".to_owned());
        let subjects = [peer, ours];
        assert_eq!(
            notes_of_failures(&subjects),
            [
                "theirs could not be made: no network.",
                "ours ended before multi-user."
            ]
        );
        assert_eq!(
            failures_of_ours(&subjects),
            ["ours ended before multi-user"]
        );
    }

    #[test]
    fn the_middle_of_two_lies_between_them() {
        assert_eq!(middle(&mut []), None);
        assert_eq!(middle(&mut [4.0, 2.0]), Some(3.0));
        assert_eq!(middle(&mut [4.0, 9.0, 2.0]), Some(4.0));
    }

    #[test]
    fn a_row_that_goes_to_the_root_only_has_no_multi_user() {
        let mut subject = Subject::new("ours", Whose::Ours, Ok(way("ours", "")));
        assert!(subject.to_multi_user().is_some());
        subject.far = false;
        assert!(subject.to_root().is_some() && subject.to_multi_user().is_none());
        assert!(subject.failure().is_none());
    }

    #[test]
    fn multi_user_is_the_same_boot_without_the_marker() {
        let root = way(FILE, &format!("root=UUID=1 init={}", guest::MARK));
        assert_eq!(to_multi_user(&root).unwrap().append, "root=UUID=1 ");
        let alone = Way {
            name: KERNEL.to_owned(),
            ..root
        };
        assert!(to_multi_user(&alone).is_none());
    }
}

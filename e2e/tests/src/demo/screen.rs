//! Output of the demo: a live view on a terminal, plain lines otherwise.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kube::runtime::{WatchStreamExt as _, watcher};
use owo_colors::OwoColorize as _;
use serin_crds::status::EvidenceStatus;
use serin_crds::{Rollout, RolloutStatus};
use serin_load::LoadHandle;

use super::view::{ReleaseProgress, ReleaseView};
use crate::shop::Shop;

/// Refresh interval of the live view.
const FRAME_INTERVAL: Duration = Duration::from_millis(200);
/// Without a terminal, the interval of lines while only numbers change.
const LINE_INTERVAL: Duration = Duration::from_secs(3);

/// Standard output.
pub(super) struct Screen {
    /// The live part at the bottom. `None` without a terminal.
    live: Option<MultiProgress>,
    color: bool,
}

impl Screen {
    pub(super) fn new(plain: bool) -> Self {
        let is_live = !plain && std::io::stdout().is_terminal();
        Self {
            live: is_live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout())),
            color: is_live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// Prints permanent text.
    pub(super) fn print(&self, text: &str) {
        match &self.live {
            // A closed terminal cannot show the error.
            Some(live) => drop(live.println(text)),
            None => println!("{text}"),
        }
    }

    /// The width of the terminal. `None` without a terminal.
    pub(super) fn columns(&self) -> Option<u16> {
        self.live
            .as_ref()
            .and_then(|_| crossterm::terminal::size().ok())
            .map(|(columns, _)| columns)
    }

    /// Prints the heading of a release.
    pub(super) fn scene(&self, text: &str) {
        self.print(&if self.color {
            text.bold().to_string()
        } else {
            text.to_owned()
        });
    }

    /// Removes the live view.
    pub(super) fn clear(&self) {
        if let Some(live) = &self.live {
            drop(live.clear());
        }
    }

    /// Shows progress while it waits for work.
    pub(super) async fn wait<T, E>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T>
    where
        anyhow::Error: From<E>,
    {
        let began = Instant::now();
        let bar = self.live.as_ref().map(|live| {
            let bar = live.add(ProgressBar::new_spinner().with_message(what.to_owned()));
            bar.enable_steady_tick(FRAME_INTERVAL);
            bar
        });
        if bar.is_none() {
            println!("{what} ...");
        }
        let result = work.await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let result = result?;
        self.print(&format!(
            "✓ {what} ({:.1} s)",
            began.elapsed().as_secs_f64()
        ));
        Ok(result)
    }

    /// Shows a release until `done` resolves. Also returns the last evidence.
    pub(super) async fn follow<T>(
        &self,
        shop: &Shop,
        load: Option<&LoadHandle>,
        release: &ReleaseProgress,
        done: impl Future<Output = T>,
    ) -> anyhow::Result<(T, Vec<EvidenceStatus>)> {
        let mut changes = watcher::watch_object(shop.api::<Rollout>(), &shop.name)
            .default_backoff()
            .boxed();
        let mut tick = tokio::time::interval(FRAME_INTERVAL);
        let mut frame = Frame::new(self);
        let mut status: Option<RolloutStatus> = None;
        let mut evidence = Vec::new();
        let began = Instant::now();
        tokio::pin!(done);
        loop {
            let view = ReleaseView {
                release,
                status: status
                    .as_ref()
                    .filter(|status| release.is_described_by(status)),
                load: load.map(LoadHandle::snapshot),
                elapsed: began.elapsed(),
                color: self.color,
            };
            frame.show(&view);
            tokio::select! {
                result = &mut done => {
                    frame.clear();
                    return Ok((result, evidence));
                }
                _ = tick.tick() => {}
                // The watch retries after errors. `done` waits for the end of the release.
                Ok(Some(Some(rollout))) = changes.try_next() => {
                    status = rollout.status;
                    if let Some(status) = status.as_ref().filter(|status| release.is_described_by(status))
                        && !status.evidence.is_empty()
                    {
                        evidence.clone_from(&status.evidence);
                    }
                }
            }
        }
    }
}

/// The live lines of one release.
struct Frame<'a> {
    live: Option<&'a MultiProgress>,
    bars: Vec<ProgressBar>,
    /// The last printed position without a terminal, and when it was printed.
    last_line: Option<(String, Instant)>,
}

impl<'a> Frame<'a> {
    fn new(screen: &'a Screen) -> Self {
        Self {
            live: screen.live.as_ref(),
            bars: Vec::new(),
            last_line: None,
        }
    }

    fn show(&mut self, view: &ReleaseView<'_>) {
        match self.live {
            Some(live) => self.draw(live, view),
            None => self.print_line(view),
        }
    }

    fn draw(&mut self, live: &MultiProgress, view: &ReleaseView<'_>) {
        let lines = view.lines();
        while self.bars.len() < lines.len() {
            let bar = live.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            self.bars.push(bar);
        }
        for (bar, line) in self.bars.iter().zip(lines) {
            bar.set_message(line);
        }
    }

    /// Prints a line immediately if the position changes, and at intervals if only numbers change.
    fn print_line(&mut self, view: &ReleaseView<'_>) {
        let position = view.position();
        let is_due = self
            .last_line
            .as_ref()
            .is_none_or(|(last, at)| *last != position || at.elapsed() >= LINE_INTERVAL);
        if is_due {
            println!("{}", view.line());
            self.last_line = Some((position, Instant::now()));
        }
    }

    fn clear(&mut self) {
        for bar in self.bars.drain(..) {
            bar.finish_and_clear();
        }
    }
}

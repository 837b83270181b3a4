//! Where it is shown: live on a terminal, in lines elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kube::runtime::{WatchStreamExt as _, watcher};
use owo_colors::OwoColorize as _;
use serin_crds::status::EvidenceStatus;
use serin_crds::{Rollout, RolloutStatus};
use serin_load::LoadHandle;

use super::view::{Look, Release};
use crate::shop::Shop;

/// How often the live view is drawn.
const FRAME: Duration = Duration::from_millis(200);
/// Without a terminal, how often numbers are told that change all the time.
const BETWEEN_LINES: Duration = Duration::from_secs(3);

/// Standard output, as it is.
pub(super) struct Screen {
    /// The live part at the bottom, where there is a terminal.
    live: Option<MultiProgress>,
    colour: bool,
}

impl Screen {
    pub(super) fn new(plain: bool) -> Self {
        let is_live = !plain && std::io::stdout().is_terminal();
        Self {
            live: is_live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout())),
            colour: is_live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// Tells something that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.live {
            // A terminal that is gone cannot be told of it.
            Some(live) => drop(live.println(text)),
            None => println!("{text}"),
        }
    }

    /// The width of the terminal, where there is one.
    pub(super) fn columns(&self) -> Option<u16> {
        self.live
            .as_ref()
            .and_then(|_| crossterm::terminal::size().ok())
            .map(|(columns, _)| columns)
    }

    /// Opens a scene.
    pub(super) fn scene(&self, text: &str) {
        self.say(&if self.colour {
            text.bold().to_string()
        } else {
            text.to_owned()
        });
    }

    /// Nothing live remains.
    pub(super) fn clear(&self) {
        if let Some(live) = &self.live {
            drop(live.clear());
        }
    }

    /// Waits for something that takes a while.
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
            bar.enable_steady_tick(FRAME);
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
        self.say(&format!(
            "✓ {what} ({:.1} s)",
            began.elapsed().as_secs_f64()
        ));
        Ok(result)
    }

    /// Shows a release until it is done, and hands on what the metrics last said of it.
    pub(super) async fn follow<T>(
        &self,
        shop: &Shop,
        load: Option<&LoadHandle>,
        release: &Release,
        done: impl Future<Output = T>,
    ) -> anyhow::Result<(T, Vec<EvidenceStatus>)> {
        let mut changes = watcher::watch_object(shop.api::<Rollout>(), &shop.name)
            .default_backoff()
            .boxed();
        let mut tick = tokio::time::interval(FRAME);
        let mut frame = Frame::new(self);
        let mut status: Option<RolloutStatus> = None;
        let mut evidence = Vec::new();
        let began = Instant::now();
        tokio::pin!(done);
        loop {
            let look = Look {
                release,
                status: status.as_ref().filter(|status| release.is_in(status)),
                load: load.map(LoadHandle::snapshot),
                elapsed: began.elapsed(),
                colour: self.colour,
            };
            frame.show(&look);
            tokio::select! {
                result = &mut done => {
                    frame.clear();
                    return Ok((result, evidence));
                }
                _ = tick.tick() => {}
                // What the watch fails with, it repeats; the release's own end is waited for
                // elsewhere.
                Ok(Some(Some(rollout))) = changes.try_next() => {
                    status = rollout.status;
                    if let Some(status) = status.as_ref().filter(|status| release.is_in(status))
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
    /// The last position told without a terminal, and when.
    told: Option<(String, Instant)>,
}

impl<'a> Frame<'a> {
    fn new(screen: &'a Screen) -> Self {
        Self {
            live: screen.live.as_ref(),
            bars: Vec::new(),
            told: None,
        }
    }

    fn show(&mut self, look: &Look<'_>) {
        match self.live {
            Some(live) => self.draw(live, look),
            None => self.tell(look),
        }
    }

    fn draw(&mut self, live: &MultiProgress, look: &Look<'_>) {
        let lines = look.lines();
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

    /// A line when the position changes, at once; when only numbers do, now and then.
    fn tell(&mut self, look: &Look<'_>) {
        let position = look.position();
        let is_due = self
            .told
            .as_ref()
            .is_none_or(|(told, at)| *told != position || at.elapsed() >= BETWEEN_LINES);
        if is_due {
            println!("{}", look.line());
            self.told = Some((position, Instant::now()));
        }
    }

    fn clear(&mut self) {
        for bar in self.bars.drain(..) {
            bar.finish_and_clear();
        }
    }
}

//! Live view: the report on the alternate screen, redrawn at each change and every second.

use std::io::{self, Write};
use std::time::Duration;

use anstream::ColorChoice;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, terminal};
use futures::StreamExt;

use super::{BATCH_WINDOW, WatchEnd, watch_end};
use crate::display::DisplayContext;
use crate::exit::CliError;
use crate::report::report;
use crate::style;
use crate::view::render;
use crate::watch::RolloutFollower;

/// Interval at which relative times are updated.
const TICK: Duration = Duration::from_secs(1);

/// The alternate screen. Dropping it restores the terminal.
struct Screen;

impl Screen {
    fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is no way to handle a terminal that no longer accepts output.
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// Action of a key.
enum KeyAction {
    Quit,
    Scroll(isize),
    Redraw,
}

/// Shows the Rollout until the watch ends or the user quits.
pub async fn show(
    follower: &mut RolloutFollower,
    until_done: bool,
    color: ColorChoice,
) -> Result<WatchEnd, CliError> {
    let _screen = Screen::open()?;
    let mut events = EventStream::new();
    let mut tick = tokio::time::interval(TICK);
    let mut top = 0_usize;
    loop {
        top = draw(follower, top, color)?;
        if let Some(end) = watch_end(follower, until_done) {
            return Ok(end);
        }
        tokio::select! {
            () = follower.wait_for_changes(BATCH_WINDOW) => {}
            _ = tick.tick() => {}
            event = events.next() => match event {
                Some(Ok(event)) => match key_action(&event) {
                    Some(KeyAction::Quit) => return Ok(WatchEnd::Quit),
                    Some(KeyAction::Scroll(lines)) => top = top.saturating_add_signed(lines),
                    Some(KeyAction::Redraw) | None => {}
                },
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(WatchEnd::Quit),
            },
        }
    }
}

fn key_action(event: &Event) -> Option<KeyAction> {
    match event {
        Event::Resize(..) => Some(KeyAction::Redraw),
        Event::Key(KeyEvent {
            code,
            modifiers,
            kind: KeyEventKind::Press | KeyEventKind::Repeat,
            ..
        }) => match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => {
                Some(KeyAction::Quit)
            }
            KeyCode::Char('q') | KeyCode::Esc => Some(KeyAction::Quit),
            KeyCode::Down | KeyCode::Char('j') => Some(KeyAction::Scroll(1)),
            KeyCode::Up | KeyCode::Char('k') => Some(KeyAction::Scroll(-1)),
            KeyCode::PageDown | KeyCode::Char(' ') => Some(KeyAction::Scroll(10)),
            KeyCode::PageUp => Some(KeyAction::Scroll(-10)),
            _ => None,
        },
        _ => None,
    }
}

/// Draws the part of the report that fits, from line `top`. Returns the first line drawn.
fn draw(follower: &RolloutFollower, top: usize, color: ColorChoice) -> io::Result<usize> {
    let display = DisplayContext::from_terminal();
    let text = render(&report(follower.resources(), display.now), &display);
    let rows = terminal::size().map_or(24, |(_, rows)| usize::from(rows));
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.saturating_sub(1).max(1);
    let top = top.min(lines.len().saturating_sub(room));
    let plain = color == ColorChoice::Never
        || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let mut out = io::stdout().lock();
    queue!(out, terminal::BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
    for line in lines.iter().skip(top).take(room) {
        let line = if plain {
            anstream::adapter::strip_str(line).to_string()
        } else {
            (*line).to_owned()
        };
        write!(out, "{line}")?;
        queue!(out, terminal::Clear(terminal::ClearType::UntilNewLine))?;
        write!(out, "\r\n")?;
    }
    queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown))?;
    let more = if lines.len() > room {
        " · ↑↓ scroll"
    } else {
        ""
    };
    let help = format!("{} · q to leave{more}", display.format_time(display.now));
    queue!(
        out,
        cursor::MoveTo(0, u16::try_from(rows.saturating_sub(1)).unwrap_or(u16::MAX))
    )?;
    write!(out, "{}", if plain { help } else { style::dimmed(&help) })?;
    queue!(out, terminal::EndSynchronizedUpdate)?;
    out.flush()?;
    Ok(top)
}

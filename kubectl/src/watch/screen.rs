//! The live view: the report on the alternate screen, drawn anew at each change and each second.

use std::io::{self, Write};
use std::time::Duration;

use anstream::ColorChoice;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, terminal};
use futures::StreamExt;

use super::{End, GATHER, over};
use crate::exit::Failure;
use crate::look::Look;
use crate::paint;
use crate::report::report;
use crate::view::render;
use crate::watch::Follower;

/// How often times on the screen move on.
const TICK: Duration = Duration::from_secs(1);

/// The alternate screen; the terminal is put back as it was when this is dropped, whatever happens.
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
        // Nothing can be done for a terminal that does not listen any more.
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// What a key asks for.
enum Key {
    Leave,
    Scroll(isize),
    Redraw,
}

/// Shows the Rollout until it is over or the person leaves.
pub async fn show(
    follower: &mut Follower,
    until_done: bool,
    colour: ColorChoice,
) -> Result<End, Failure> {
    let _screen = Screen::open()?;
    let mut events = EventStream::new();
    let mut tick = tokio::time::interval(TICK);
    let mut top = 0_usize;
    loop {
        top = draw(follower, top, colour)?;
        if let Some(end) = over(follower, until_done) {
            return Ok(end);
        }
        tokio::select! {
            () = follower.changed(GATHER) => {}
            _ = tick.tick() => {}
            event = events.next() => match event {
                Some(Ok(event)) => match key(&event) {
                    Some(Key::Leave) => return Ok(End::Left),
                    Some(Key::Scroll(lines)) => top = top.saturating_add_signed(lines),
                    Some(Key::Redraw) | None => {}
                },
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(End::Left),
            },
        }
    }
}

fn key(event: &Event) -> Option<Key> {
    match event {
        Event::Resize(..) => Some(Key::Redraw),
        Event::Key(KeyEvent {
            code,
            modifiers,
            kind: KeyEventKind::Press | KeyEventKind::Repeat,
            ..
        }) => match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Leave),
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Leave),
            KeyCode::Down | KeyCode::Char('j') => Some(Key::Scroll(1)),
            KeyCode::Up | KeyCode::Char('k') => Some(Key::Scroll(-1)),
            KeyCode::PageDown | KeyCode::Char(' ') => Some(Key::Scroll(10)),
            KeyCode::PageUp => Some(Key::Scroll(-10)),
            _ => None,
        },
        _ => None,
    }
}

/// Draws the part of the report that fits, from line `top`; gives the line that it really began
/// with.
fn draw(follower: &Follower, top: usize, colour: ColorChoice) -> io::Result<usize> {
    let look = Look::now();
    let text = render(&report(follower.picture(), look.now), &look);
    let rows = terminal::size().map_or(24, |(_, rows)| usize::from(rows));
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.saturating_sub(1).max(1);
    let top = top.min(lines.len().saturating_sub(room));
    let plain = colour == ColorChoice::Never
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
    let help = format!("{} · q to leave{more}", look.clock(look.now));
    queue!(
        out,
        cursor::MoveTo(0, u16::try_from(rows.saturating_sub(1)).unwrap_or(u16::MAX))
    )?;
    write!(out, "{}", if plain { help } else { paint::dim(&help) })?;
    queue!(out, terminal::EndSynchronizedUpdate)?;
    out.flush()?;
    Ok(top)
}

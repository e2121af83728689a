//! Answers to many callers at once.
//!
//! A current-thread runtime writes to its eventfd for every task that another thread wakes. One flush answers dozens of
//! tasks, so that was a system call for each of them, and the runtime's thread woke, found one task and slept again.
//! Here all tasks of one runtime that a batch answers are woken by one task of that runtime.

use std::{
    cell::RefCell,
    future::poll_fn,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};
use tokio::{
    runtime::{Handle, Id, RuntimeFlavor},
    sync::Notify,
};

/// Both ends of one answer's way.
pub(crate) fn channel<T>() -> (Reply<T>, Answer<T>) {
    let slot = Arc::new(Slot(Mutex::new(State::Awaited(None))));
    (Reply(slot.clone()), Answer(slot))
}

/// Where the answer is put; dropped without one, the caller learns that there is none.
pub(crate) struct Reply<T>(Arc<Slot<T>>);

/// Where the answer comes out.
pub(crate) struct Answer<T>(Arc<Slot<T>>);

/// Callers whose answers lie ready, to be woken together.
#[derive(Default)]
pub(crate) struct Wakes {
    direct: Vec<Waker>,
    by_runtime: Vec<(Arc<Mailbox>, Vec<Waker>)>,
}

struct Slot<T>(Mutex<State<T>>);

enum State<T> {
    Awaited(Option<(Waker, Option<Arc<Mailbox>>)>),
    Here(T),
    Gone,
}

impl<T> Reply<T> {
    /// Puts the answer; whoever waits for it is added to `wakes`.
    pub(crate) fn put(self, answer: T, wakes: &mut Wakes) {
        let state = mem::replace(&mut *self.0.lock(), State::Here(answer));
        if let State::Awaited(Some((waker, mailbox))) = state {
            wakes.add(waker, mailbox);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let State::Awaited(waiting) = &mut *state {
            let waiting = waiting.take();
            *state = State::Gone;
            drop(state);
            if let Some((waker, _)) = waiting {
                waker.wake();
            }
        }
    }
}

impl<T> Answer<T> {
    /// The answer; none if there will be none.
    pub(crate) async fn get(self) -> Option<T> {
        poll_fn(|context| {
            let mut state = self.0.lock();
            match mem::replace(&mut *state, State::Gone) {
                State::Here(answer) => Poll::Ready(Some(answer)),
                State::Gone => Poll::Ready(None),
                State::Awaited(before) => {
                    let waiting = match before {
                        Some((waker, mailbox)) if waker.will_wake(context.waker()) => (waker, mailbox),
                        _ => (context.waker().clone(), Mailbox::here()),
                    };
                    *state = State::Awaited(Some(waiting));
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl<T: Send + 'static> Answer<T> {
    /// As [`Answer::get`], in a thread that has nothing else to do.
    pub(crate) fn wait(self) -> Option<T> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut answer = pin!(self.get());
        loop {
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(&waker)) {
                return answer;
            }
            thread::park();
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wakes {
    fn add(&mut self, waker: Waker, mailbox: Option<Arc<Mailbox>>) {
        let Some(mailbox) = mailbox else { return self.direct.push(waker) };
        match self.by_runtime.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &mailbox)) {
            Some((_, wakers)) => wakers.push(waker),
            None => self.by_runtime.push((mailbox, vec![waker])),
        }
    }

    /// Wakes all of them.
    pub(crate) fn send(&mut self) {
        self.direct.drain(..).for_each(Waker::wake);
        self.by_runtime.retain_mut(|(mailbox, wakers)| {
            // Alone, a caller needs no messenger.
            if wakers.len() < 2 || !mailbox.leave(wakers) {
                wakers.drain(..).for_each(Waker::wake);
            }
            mailbox.is_open()
        });
    }
}

/// Where wake-ups for the tasks of one runtime are left.
pub(crate) struct Mailbox {
    letters: Mutex<Letters>,
    arrived: Notify,
}

struct Letters {
    wakers: Vec<Waker>,
    /// Whether somebody will still come and look.
    open: bool,
}

impl Mailbox {
    /// The mailbox of the current-thread runtime that this is called in; none elsewhere.
    fn here() -> Option<Arc<Self>> {
        thread_local! {
            static LAST: RefCell<Option<(Id, Arc<Mailbox>)>> = const { RefCell::new(None) };
        }
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        LAST.with_borrow_mut(|last| {
            if let Some((id, mailbox)) = last
                && *id == runtime.id()
                && mailbox.is_open()
            {
                return Some(mailbox.clone());
            }
            let letters = Mutex::new(Letters { wakers: Vec::new(), open: true });
            let mailbox = Arc::new(Self { letters, arrived: Notify::new() });
            runtime.spawn(Postman(mailbox.clone()).walk());
            if let Some((_, before)) = last.replace((runtime.id(), mailbox.clone())) {
                before.close();
            }
            Some(mailbox)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.lock().open
    }

    /// Takes the wakers; not when nobody would find them.
    fn leave(&self, wakers: &mut Vec<Waker>) -> bool {
        let mut letters = self.lock();
        if !letters.open {
            return false;
        }
        letters.wakers.append(wakers);
        drop(letters);
        self.arrived.notify_one();
        true
    }

    /// Nothing is left here any more, and what lies here is delivered.
    fn close(&self) {
        let mut letters = self.lock();
        letters.open = false;
        let wakers = mem::take(&mut letters.wakers);
        drop(letters);
        wakers.into_iter().for_each(Waker::wake);
        self.arrived.notify_one();
    }
}

/// Delivers what is left in a mailbox, from inside its runtime. Ends with the runtime, or when the mailbox is closed.
struct Postman(Arc<Mailbox>);

impl Postman {
    async fn walk(self) {
        let mut wakers = Vec::new();
        loop {
            self.0.arrived.notified().await;
            {
                let mut letters = self.0.lock();
                if !letters.open {
                    return;
                }
                mem::swap(&mut letters.wakers, &mut wakers);
            }
            wakers.drain(..).for_each(Waker::wake);
        }
    }
}

impl Drop for Postman {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Builder;

    fn runtime() -> tokio::runtime::Runtime {
        Builder::new_current_thread().build().unwrap()
    }

    /// Answers `replies` in one go, on another thread.
    fn answer(replies: Vec<Reply<usize>>) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let mut wakes = Wakes::default();
            for (n, reply) in replies.into_iter().enumerate() {
                reply.put(n, &mut wakes);
            }
            wakes.send();
        })
    }

    fn channels(n: usize) -> (Vec<Reply<usize>>, Vec<Answer<usize>>) {
        (0..n).map(|_| channel()).unzip()
    }

    #[test]
    fn everybody_gets_their_own_answer() {
        let multi_thread = Builder::new_multi_thread().worker_threads(2).build().unwrap();
        for runtime in [runtime(), multi_thread] {
            let (replies, answers) = channels(50);
            runtime.block_on(async {
                let tasks: Vec<_> = answers.into_iter().map(|answer| tokio::spawn(answer.get())).collect();
                tokio::task::yield_now().await;
                let answering = answer(replies);
                for (n, task) in tasks.into_iter().enumerate() {
                    assert_eq!(task.await.unwrap(), Some(n));
                }
                answering.join().unwrap();
            });
        }
    }

    #[test]
    fn an_answer_that_will_not_come_ends_the_wait() {
        let (reply, answer) = channel::<()>();
        runtime().block_on(async {
            let task = tokio::spawn(answer.get());
            tokio::task::yield_now().await;
            drop(reply);
            assert_eq!(task.await.unwrap(), None);
        });
    }

    /// Who waits in one runtime is not left to the messenger of another that nobody drives any more.
    #[test]
    fn a_runtime_that_stands_still_keeps_nobody_waiting() {
        let (still, going) = (runtime(), runtime());
        let (mut replies, mut answers) = channels(12);
        let parked: Vec<_> = answers.drain(..6).map(|answer| still.spawn(answer.get())).collect();
        still.block_on(tokio::task::yield_now());
        going.block_on(async {
            let tasks: Vec<_> = answers.into_iter().map(|answer| tokio::spawn(answer.get())).collect();
            tokio::task::yield_now().await;
            let answering = answer(replies.split_off(6));
            for (n, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.await.unwrap(), Some(n));
            }
            answering.join().unwrap();
        });
        answer(replies).join().unwrap();
        still.block_on(async {
            for (n, task) in parked.into_iter().enumerate() {
                assert_eq!(task.await.unwrap(), Some(n));
            }
        });
    }

    /// The callers outlive the runtime whose task would have woken them.
    #[test]
    fn a_runtime_that_ended_keeps_nobody_waiting() {
        let (replies, answers) = channels(6);
        let ended = runtime();
        let mut waits: Vec<_> = answers.into_iter().map(|answer| Box::pin(answer.get())).collect();
        let other = runtime();
        ended.block_on(async {
            for wait in &mut waits {
                assert!(poll_fn(|context| Poll::Ready(wait.as_mut().poll(context).is_pending())).await);
            }
        });
        drop(ended);
        answer(replies).join().unwrap();
        other.block_on(async {
            for (n, wait) in waits.into_iter().enumerate() {
                assert_eq!(wait.await, Some(n));
            }
        });
    }
}

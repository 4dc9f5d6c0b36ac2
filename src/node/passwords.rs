//! Passwords: argon2id, on threads of their own, few at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use tokio::sync::Semaphore;

/// Hashes under way at once. Each takes 19 MiB and some 30 ms of a core: media comes first.
pub const HASHES_AT_ONCE: usize = 2;
/// Hashes that wait for their turn: some two seconds of work. Beyond it whoever asks is told to
/// come back.
pub const HASHES_WAITING: usize = 64;
/// Shortest password, in characters.
pub const PASSWORD_MIN: usize = 10;
/// Longest password, in bytes: hashing reads all of it.
pub const PASSWORD_MAX: usize = 256;
/// Passwords of one account that are tried: after a partition there may be two.
pub const PASSWORDS_TRIED: usize = 4;

/// Memory in KiB, passes and lanes that are used (OWASP's for argon2id), and the most that are
/// believed of a stored hash.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
const MOST: (u32, u32, u32) = (64 * 1024, 8, 4);

/// Why a password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// Guessed too soon.
    #[error("a password has at least {PASSWORD_MIN} characters: choose a longer one")]
    Short,
    /// Costs too much.
    #[error("a password has at most {PASSWORD_MAX} bytes: choose a shorter one")]
    Long,
    /// The node is at its limit.
    #[error("too many passwords are being checked at this node: try again in a moment")]
    Busy,
    /// The system gives no memory or no randomness.
    #[error("the password cannot be hashed: this node is out of memory")]
    Failed,
}

/// Hashes and checks passwords, within limits.
#[derive(Debug)]
pub struct Passwords {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Of a password that nobody has: checked in place of those that are not there.
    dummy: String,
}

impl Passwords {
    /// None under way.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = HASHES_AT_ONCE.min(cores.div_ceil(2));
        let dummy = hash(&super::random::<16>()).unwrap_or_default();
        let slots = Arc::new(Semaphore::new(slots));
        Self { slots, waiting: AtomicUsize::new(0), dummy }
    }

    /// What is stored of a new password, in PHC form.
    pub async fn hash(&self, password: String) -> Result<String, BadPassword> {
        check(&password)?;
        self.run(move || hash(password.as_bytes())).await?.ok_or(BadPassword::Failed)
    }

    /// Which of these the password is, if any. If there are none it takes as long.
    pub async fn verify(
        &self,
        mut password: String,
        stored: Vec<String>,
    ) -> Result<Option<usize>, BadPassword> {
        if password.len() > PASSWORD_MAX {
            // Nobody has it; what is hashed instead is short.
            password = String::new();
        }
        let known = !stored.is_empty();
        let stored = if known { stored } else { vec![self.dummy.clone()] };
        let found = self
            .run(move || {
                let mut found = None;
                for (index, one) in stored.iter().enumerate().take(PASSWORDS_TRIED) {
                    if verify(password.as_bytes(), one) {
                        found = Some(index);
                    }
                }
                found
            })
            .await?;
        Ok(found.filter(|_index| known))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BadPassword> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= HASHES_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(BadPassword::Busy);
        }
        let waits = Waits(&self.waiting);
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.map_err(|_closed| BadPassword::Busy)?;
        // The slot goes with the work: whoever gives up on the answer does not free it.
        let done = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work()
        });
        let result = done.await.map_err(|_panic| BadPassword::Failed);
        drop(waits);
        result
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts one that waits or works, for as long as it is asked for.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a password may be set.
pub fn check(password: &str) -> Result<(), BadPassword> {
    match password {
        short if short.chars().count() < PASSWORD_MIN => Err(BadPassword::Short),
        long if long.len() > PASSWORD_MAX => Err(BadPassword::Long),
        _ => Ok(()),
    }
}

fn hash(password: &[u8]) -> Option<String> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).ok()?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let salt: [u8; 16] = super::random();
    argon.hash_password_with_salt(password, &salt).ok().map(|hash| hash.to_string())
}

fn verify(password: &[u8], stored: &str) -> bool {
    let Ok(parsed) = PasswordHash::new(stored) else { return false };
    let Ok(params) = Params::try_from(&parsed) else { return false };
    let (memory, passes, lanes) = MOST;
    // A stored hash must not take what it likes.
    let modest = params.m_cost() <= memory && params.t_cost() <= passes && params.p_cost() <= lanes;
    modest && Argon2::default().verify_password(password, &parsed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_another_is_not() {
        let passwords = Passwords::new();
        let stored = passwords.hash("correct horse".into()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let other = passwords.hash("correct horse".into()).await.unwrap();
        assert_ne!(stored, other, "each has its own salt");
        let both = vec![other, stored];
        assert_eq!(passwords.verify("correct horse".into(), both.clone()).await, Ok(Some(1)));
        assert_eq!(passwords.verify("correct house".into(), both).await, Ok(None));
        assert_eq!(passwords.verify("correct horse".into(), vec![]).await, Ok(None));
        assert_eq!(passwords.verify("x".into(), vec!["no hash".into()]).await, Ok(None));
    }

    #[tokio::test]
    async fn a_stored_hash_that_asks_for_too_much_is_not_tried() {
        let passwords = Passwords::new();
        let greedy = "$argon2id$v=19$m=4194304,t=9,p=1$c29tZXNhbHRzb21lc2FsdA$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let begin = std::time::Instant::now();
        assert_eq!(passwords.verify("correct horse".into(), vec![greedy.into()]).await, Ok(None));
        assert!(begin.elapsed().as_secs() < 2);
    }

    #[tokio::test]
    async fn lengths_have_limits() {
        let passwords = Passwords::new();
        assert_eq!(passwords.hash("ninechars".into()).await, Err(BadPassword::Short));
        assert_eq!(passwords.hash("x".repeat(PASSWORD_MAX + 1)).await, Err(BadPassword::Long));
        assert!(passwords.hash("é".repeat(PASSWORD_MIN)).await.is_ok());
    }

    #[tokio::test]
    async fn a_flood_is_told_to_come_back_and_the_rest_is_done() {
        let passwords = Arc::new(Passwords::new());
        let ask = |_| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.verify("correct horse".into(), vec![]).await })
        };
        let asked: Vec<_> = (0..HASHES_WAITING + 10).map(ask).collect();
        let answers = futures::future::join_all(asked).await;
        let busy = answers.iter().filter(|it| matches!(it, Ok(Err(BadPassword::Busy)))).count();
        assert!((1..=10).contains(&busy), "{busy} were sent away");
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
    }
}

//! What nodes ask each other on behalf of people, and the answers.

use std::sync::Arc;
use std::time::Duration;

use super::super::leg;
use super::Live;
use crate::id::NodeId;
use crate::session::host::{Cause, Order, Outcome};
use crate::wire::{self, Answer, Ask, AskMove, Failed, Message, Moved};

impl Live {
    /// What another node says to a question, unless it is a refusal.
    pub(super) async fn question(
        &self,
        to: NodeId,
        ask: &Ask,
        limit: Duration,
    ) -> Result<Answer, Failed> {
        let answer = self.node.ask(to, ask, limit).await;
        let bytes = answer.map_err(|error| unreachable(error.to_string()))?;
        match Answer::decode(&bytes) {
            Ok(Answer::Failed(failed)) => Err(failed),
            Ok(answer) => Ok(answer),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }

    pub(super) async fn moved(&self, wish: AskMove) -> Moved {
        let AskMove { encoder, to, reason } = wish;
        let order = Order { encoder, to, cause: Cause::Operator, reason, ticket: 0 };
        Moved {
            failed: match self.node.move_encoder(order).await {
                Outcome::Done => None,
                Outcome::Refused(why) | Outcome::Failed(why) => Some(why),
            },
        }
    }

    pub(super) async fn moved_at(&self, home: NodeId, wish: AskMove) -> Result<Moved, Failed> {
        if home == self.node.id() {
            return Ok(self.moved(wish).await);
        }
        match self.question(home, &Ask::Move(wish), super::MOVE_TIMEOUT).await? {
            Answer::Moved(moved) => Ok(moved),
            _ => Err(unreachable("that node answered something else".into())),
        }
    }

    pub(super) async fn drained(&self) -> wire::DrainState {
        let state = self.node.drain_state().await.unwrap_or_default();
        wire::DrainState { json: serde_json::to_string(&state).unwrap_or_default() }
    }

    pub(super) async fn drained_at(&self, node: NodeId) -> Result<serde_json::Value, Failed> {
        let json = match node == self.node.id() {
            true => self.drained().await.json,
            false => {
                let ask = Ask::Drain(wire::AskDrain {});
                match self.question(node, &ask, super::ASK_TIMEOUT).await? {
                    Answer::Drain(state) => state.json,
                    _ => return Err(unreachable("that node answered something else".into())),
                }
            }
        };
        serde_json::from_str(&json).map_err(|error| unreachable(error.to_string()))
    }

    pub(super) async fn answer(self: Arc<Self>, ask: Ask) -> Answer {
        match ask {
            Ask::Move(wish) => Answer::Moved(self.moved(wish).await),
            Ask::Drain(wire::AskDrain {}) => Answer::Drain(self.drained().await),
            Ask::Offer(offer) => match leg::accept(self, &offer) {
                Ok(answer) => Answer::Sdp(answer),
                Err(failed) => Answer::Failed(failed),
            },
            Ask::Viewers(wire::AskViewers { encoder }) => {
                let json = serde_json::to_string(&self.own_viewers(encoder)).unwrap_or_default();
                Answer::Viewers(wire::ViewerList { json })
            }
        }
    }
}

/// Another node does not answer, or not what was asked.
pub(super) fn unreachable(reason: String) -> Failed {
    Failed { status: 502, reason, retry_after: Some(1) }
}

//! stub
#![allow(missing_docs, unused)]
use crate::id::NodeId; use crate::time::*;
pub enum Event { Seeds(Vec<String>), Known{node:NodeId,addrs:Vec<String>,up:bool}, Forget(NodeId), LinkUp{node:NodeId}, LinkDown{node:NodeId}, DialFailed{node:Option<NodeId>,addr:String}, Wake }
pub enum Effect { Dial{node:Option<NodeId>,addr:String} }
pub struct Peering;
impl Peering { pub fn new(_:NodeId,_:[u8;32])->Self{Self} pub fn handle(&mut self,_:Now,_:Event,_:&mut Vec<Effect>){} pub fn next_wake(&self)->Option<Mono>{None} }

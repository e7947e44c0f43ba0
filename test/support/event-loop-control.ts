// A process that shares the machine with the one that started it and does nothing but keep time: how late its timer
// was tells what the machine itself is late by. Answers any message with the late ticks since the last one.
import { INTERVAL, type LateTick, now } from './event-loop.js';

let late: LateTick[] = [];
let due = now() + INTERVAL;
setInterval(() => {
	const at = now();
	if (at - due > 1) late.push({ due, at });
	due = at + INTERVAL;
}, INTERVAL);
process.on('message', () => {
	process.send?.(late);
	late = [];
});
process.on('disconnect', () => process.exit());

import test from 'ava';
import {
	fillWords,
	genreTemplate,
	PROMPT_WORDS,
	parsePromptTemplate,
	recommendationTemplate,
	referenceTemplate,
	validatePromptTemplate,
} from '../../lib/llm/prompt-template.js';

test('presets are valid, JSON all through, and have the words of their domain', (t) => {
	for (const domain of ['movie', 'game', 'item'] as const)
		for (const make of [recommendationTemplate, referenceTemplate, genreTemplate]) {
			const template = make(domain);
			t.deepEqual(parsePromptTemplate(JSON.stringify(template)), template);
			t.deepEqual(template.words, PROMPT_WORDS[domain]);
			t.deepEqual(template.parts[0], { type: 'user' });
			t.deepEqual(template.parts[1], { type: 'bos' });
		}
	t.deepEqual(PROMPT_WORDS.game, { past: 'played', noun: 'game', verb: 'play' });
	const words = { past: 'read', noun: 'book', verb: 'read' };
	t.is(fillWords('has {past} {noun}, {verb}', recommendationTemplate(words).words), 'has read book, read');
	t.throws(() => recommendationTemplate('Movies_and_TV' as 'movie'), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
	t.throws(() => recommendationTemplate('constructor' as 'movie'), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});

test('a wrong template is refused with the name of the field', (t) => {
	const good = recommendationTemplate('movie');
	const refuses = (value: unknown, message: RegExp) =>
		t.throws(() => validatePromptTemplate(value), { code: 'ERR_ALLMREC_INVALID_ARGUMENT', message });
	refuses(null, /`template` to be an object/);
	refuses({ ...good, name: 1 }, /`template\.name` to be a string/);
	refuses({ ...good, verbs: {} }, /`template` to be an object of name, words, parts, answer, got `verbs`/);
	refuses({ ...good, words: { past: 'a', noun: ' ', verb: 'b' } }, /`template\.words\.noun` to be a word/);
	refuses({ ...good, parts: [] }, /`template\.parts` to be a list/);
	refuses({ ...good, parts: [{ type: 'vector' }] }, /`template\.parts\[0\]\.type` to be one of text, user/);
	refuses({ ...good, parts: [{ type: 'toString' }] }, /`template\.parts\[0\]\.type`/);
	refuses({ ...good, parts: [{ type: 'text' }] }, /`template\.parts\[0\]\.text` to be a string/);
	refuses(
		{ ...good, parts: [{ type: 'text', text: '{Noun}' }] },
		/\{past\}, \{noun\} and \{verb\}, got `\{Noun\}`/,
	);
	refuses({ ...good, parts: [...good.parts, { type: 'user' }] }, /the only part of type user/);
	refuses({ ...good, parts: [{ type: 'history', seperator: ';' }] }, /got `seperator`/);
	refuses({ ...good, parts: [{ type: 'text', text: 'hello' }] }, /user, history or candidates part/);
	refuses({ ...good, parts: [{ type: 'user' }] }, /some text or BOS/);
	refuses({ ...good, answer: { open: 3 } }, /`template\.answer\.open` to be a string/);
	t.throws(() => parsePromptTemplate('{'), { code: 'ERR_ALLMREC_FILE_FORMAT' });
});

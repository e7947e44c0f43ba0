import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';

const list: Record<string, unknown> = JSON.parse(readFileSync('native/sources.json', 'utf8'));
const { tests, benchmarks, emulator_tests, checks, fuzz, cuda, emulator, ...groups } = list as Record<
	string,
	string[]
> & {
	tests: never;
	benchmarks: never;
	emulator_tests: never;
	checks: never;
	fuzz: never;
};
const programs: Record<string, string[]> = {
	...(tests as object),
	...(benchmarks as object),
	...(emulator_tests as object),
	...(checks as object),
};

const sources = (folder: string) =>
	readdirSync(folder, { recursive: true, encoding: 'utf8' })
		.map((file) => join(folder, file))
		.filter((file) => file.endsWith('.cpp') || file.endsWith('.cu'))
		.sort();

test('every C++ source is in native/sources.json, once', (t) => {
	t.deepEqual(Object.values(groups).flat().sort(), sources('native/cpp'));
});

test('a source is in the group of its folder', (t) => {
	const folders: Record<string, string> = { cpu_kernels: 'cpu/ops', backbones: 'models/backbones' };
	for (const [group, files] of Object.entries(groups)) {
		const folder = `native/cpp/${folders[group] ?? group}/`;
		t.deepEqual(
			files.filter((file) => !file.startsWith(folder)),
			[],
			group,
		);
	}
});

test('every source of the CUDA back end and of the emulator is in the list, once', (t) => {
	t.deepEqual([...cuda!].sort(), sources('native/cuda'));
	// Of programs of their own: what stands in for the registry, and for cuBLASLt.
	const apart = ['native/emulator/fake_cublaslt.cpp', 'native/emulator/linked_backend.cpp'];
	t.deepEqual([...emulator!, ...apart].sort(), sources('native/emulator'));
});

test('every native test and benchmark is built from sources that exist', (t) => {
	const present = [...sources('native/test'), ...sources('native/bench')];
	for (const [name, files] of Object.entries(programs))
		for (const file of files) t.true(present.includes(file), `${name}: ${file}`);
	const built = new Set(Object.values(programs).flat());
	t.deepEqual(
		present.filter((file) => !built.has(file)),
		[],
	);
});

test('both builds read the list', (t) => {
	for (const file of ['binding.gyp', 'CMakeLists.txt']) {
		const text = readFileSync(file, 'utf8');
		t.true(text.includes('native/sources.json'), file);
		t.false(/\.cpp\b/.test(text), `${file} names a source itself`);
	}
});

test('every source of the fuzzers is in the list, once, and no reader that does not exist', (t) => {
	const { readers, ...own } = fuzz as Record<string, string[]>;
	t.deepEqual(Object.values(own).flat().sort(), sources('native/fuzz'));
	const present = sources('native/cpp');
	t.deepEqual(
		readers!.filter((file) => !present.includes(file)),
		[],
	);
});

/**
 * The named entities of HTML 4 and XML, and those of HTML 5 that catalogues use for punctuation.
 * `latin1` names U+00A0 … U+00FF in order.
 */
const latin1 = `nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr
deg plusmn sup2 sup3 acute micro para middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest
Agrave Aacute Acirc Atilde Auml Aring AElig Ccedil Egrave Eacute Ecirc Euml Igrave Iacute Icirc Iuml
ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times Oslash Ugrave Uacute Ucirc Uuml Yacute THORN szlig
agrave aacute acirc atilde auml aring aelig ccedil egrave eacute ecirc euml igrave iacute icirc iuml
eth ntilde ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc uuml yacute thorn yuml`;

const others = `quot " amp & lt < gt > apos '
OElig Œ oelig œ Scaron Š scaron š Yuml Ÿ fnof ƒ circ ˆ tilde ˜
ensp \u2002 emsp \u2003 thinsp \u2009 hairsp \u200a zwnj \u200c zwj \u200d lrm \u200e rlm \u200f
ndash – mdash — horbar ― lsquo ‘ rsquo ’ sbquo ‚ ldquo “ rdquo ” bdquo „ dagger † Dagger ‡ bull • bullet •
hellip … mldr … permil ‰ prime ′ Prime ″ lsaquo ‹ rsaquo › oline ‾ frasl ⁄ euro € image ℑ weierp ℘ real ℜ trade ™ alefsym ℵ
Alpha Α Beta Β Gamma Γ Delta Δ Epsilon Ε Zeta Ζ Eta Η Theta Θ Iota Ι Kappa Κ Lambda Λ Mu Μ Nu Ν Xi Ξ Omicron Ο Pi Π
Rho Ρ Sigma Σ Tau Τ Upsilon Υ Phi Φ Chi Χ Psi Ψ Omega Ω
alpha α beta β gamma γ delta δ epsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ omicron ο pi π
rho ρ sigmaf ς sigma σ tau τ upsilon υ phi φ chi χ psi ψ omega ω thetasym ϑ upsih ϒ piv ϖ
larr ← uarr ↑ rarr → darr ↓ harr ↔ crarr ↵ lArr ⇐ uArr ⇑ rArr ⇒ dArr ⇓ hArr ⇔
forall ∀ part ∂ exist ∃ empty ∅ nabla ∇ isin ∈ notin ∉ ni ∋ prod ∏ sum ∑ minus − lowast ∗ radic √ prop ∝ infin ∞
ang ∠ and ∧ or ∨ cap ∩ cup ∪ int ∫ there4 ∴ sim ∼ cong ≅ asymp ≈ ne ≠ equiv ≡ le ≤ ge ≥ sub ⊂ sup ⊃ nsub ⊄ sube ⊆ supe ⊇
oplus ⊕ otimes ⊗ perp ⊥ sdot ⋅ lceil ⌈ rceil ⌉ lfloor ⌊ rfloor ⌋ lang ⟨ rang ⟩ loz ◊ spades ♠ clubs ♣ hearts ♥ diams ♦
excl ! num # dollar $ percnt % lpar ( rpar ) ast * plus + comma , period . sol / colon : semi ; equals = quest ? commat @
lsqb [ lbrack [ bsol \\ rsqb ] rbrack ] Hat ^ lowbar _ grave \` lcub { lbrace { verbar | vert | rcub } rbrace }
hyphen ‐ dash ‐ rsquor ’ rdquor ” lsquor ‚ ldquor „ check ✓ cross ✗ star ☆ starf ★ phone ☎ numero № copysr ℗ half ½
frac13 ⅓ frac23 ⅔ frac15 ⅕ frac18 ⅛ frac38 ⅜ frac58 ⅝ frac78 ⅞ centerdot · NonBreakingSpace \u00a0
inodot ı Gbreve Ğ gbreve ğ Idot İ Scedil Ş scedil ş Ccaron Č ccaron č Rcaron Ř rcaron ř Zcaron Ž zcaron ž Ecaron Ě ecaron ě
Cacute Ć cacute ć Nacute Ń nacute ń Sacute Ś sacute ś Zacute Ź zacute ź Zdot Ż zdot ż Lstrok Ł lstrok ł Dstrok Đ dstrok đ
Aogon Ą aogon ą Eogon Ę eogon ę Amacr Ā amacr ā Emacr Ē emacr ē Imacr Ī imacr ī Omacr Ō omacr ō Umacr Ū umacr ū
Odblac Ő odblac ő Udblac Ű udblac ű Uring Ů uring ů Abreve Ă abreve ă Ncaron Ň ncaron ň Dcaron Ď dcaron ď Tcaron Ť tcaron ť`;

/** Characters by entity name, without `&` and `;`. */
export const entities: ReadonlyMap<string, string> = table();

function table(): Map<string, string> {
	const map = new Map<string, string>();
	for (const [position, name] of latin1.split(/\s+/).entries())
		map.set(name, String.fromCodePoint(0xa0 + position));
	// Not by white space in general: some of the characters are white space themselves.
	const words = others.split(/[ \n]+/);
	for (let i = 0; i + 1 < words.length; i += 2) map.set(words[i]!, words[i + 1]!);
	map.set('Tab', '\t').set('NewLine', '\n').set('QUOT', '"').set('AMP', '&').set('LT', '<').set('GT', '>');
	map.set('COPY', '©').set('REG', '®').set('TRADE', '™');
	return map;
}

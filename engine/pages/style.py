"""How pages look: light and dark as the reader's system is, one column on a phone, in print."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f5f6f8;--ink:#1a1d21;--muted:#5d6570;
--rule:#d9dde3;--warn:#a33a12;--c1:#2f6fb3;--c2:#c0561b;--c3:#2a8560;--c4:#7d56b0;--c5:#9a7412;
--c6:#69717c}
@media(prefers-color-scheme:dark){:root{--paper:#121417;--card:#1b1e23;--ink:#e7e9ec;
--muted:#9ba3ae;--rule:#333941;--warn:#f2a583;--c1:#74aeea;--c2:#eb9a63;--c3:#6cc79a;--c4:#bb9bea;
--c5:#dcb958;--c6:#a2aab4}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
main{max-width:68rem;margin:0 auto;padding:2.5rem 1.5rem 3rem}
h1{font-size:1.7rem;line-height:1.2;font-weight:650;letter-spacing:-.01em;margin:0;
overflow-wrap:anywhere}
.subtitle{color:var(--muted);margin:.4rem 0 0;overflow-wrap:anywhere}
section{margin-top:2.75rem}
h2{font-size:1.15rem;font-weight:650;margin:0 0 1rem;padding-top:.9rem;
border-top:1px solid var(--rule)}
.tiles+.tiles,header+section{margin-top:1.5rem}
section.first>h2{border:0;padding:0}
.note{color:var(--muted);margin:-.5rem 0 1.1rem;max-width:46rem;overflow-wrap:anywhere}
.blocks{display:grid;gap:1.75rem 2.5rem;align-items:start;grid-auto-flow:dense;
grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
.beside{display:grid;column-gap:2.5rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
.wide{grid-column:1/-1}
.tiles{display:grid;gap:.75rem;margin:0;
grid-template-columns:repeat(auto-fill,minmax(min(100%,11rem),1fr))}
.tiles div{background:var(--card);border-radius:8px;padding:.75rem .9rem .8rem}
dt{font-size:.8rem;color:var(--muted)}
dd{margin:0;font-size:.8rem;color:var(--muted);overflow-wrap:anywhere}
dd.value{color:var(--ink);font-size:1.45rem;line-height:1.3;font-weight:600;letter-spacing:-.01em;
overflow-wrap:anywhere}
.warns dd.value{color:var(--warn)}
figure,.table{margin:0;min-width:0}
figcaption,.caption{font-size:.87rem;font-weight:600;margin:0 0 .4rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{padding:.32rem .9rem .32rem 0;border-bottom:1px solid var(--rule);text-align:left;
vertical-align:top;overflow-wrap:break-word}
th{font-size:.8rem;font-weight:500;color:var(--muted)}
th:last-child,td:last-child{padding-right:0}
tr:last-child td{border-bottom:0}
.pairs td:first-child{color:var(--muted);width:40%}
.number{text-align:right;white-space:nowrap}
.pairs .number{text-align:left}
.long{min-width:14rem;overflow-wrap:anywhere}
.pairs .long{min-width:0}
svg{display:block;width:100%;max-width:35rem;height:auto;overflow:visible;
stroke-linejoin:round}
svg text{fill:var(--ink)}
footer{margin-top:3rem;padding-top:.9rem;border-top:1px solid var(--rule);font-size:.8rem;
color:var(--muted)}
@media(max-width:34rem){main{padding:1.5rem 1rem 2rem}h1{font-size:1.4rem}
.tiles{grid-template-columns:1fr 1fr}dd.value{font-size:1.25rem}}
@media print{:root{color-scheme:light;--paper:#fff;--card:#f5f6f8;--ink:#000;--muted:#444;
--rule:#ccc;--warn:#a33a12;--c1:#2f6fb3;--c2:#c0561b;--c3:#2a8560;--c4:#7d56b0;--c5:#9a7412;
--c6:#69717c}
body{font-size:10.5pt}main{max-width:none;padding:0}h2{break-after:avoid}
figure,tr,.tiles div{break-inside:avoid}.scroll{overflow:visible}
.tiles div{border:1px solid var(--rule)}
.blocks,.beside{grid-template-columns:1fr 1fr}}
"""

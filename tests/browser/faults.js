// What a reader would complain of on the page: sentences about what sticks out, is cut, or lies on something else.
() => {
    const found = [];
    const box = element => element.getBoundingClientRect();
    const shown = element => {
        const {width, height} = box(element), style = getComputedStyle(element);
        return width > 0 && height > 0 && style.opacity > 0 && style.visibility !== 'hidden';
    };
    const hides = element => ['hidden', 'clip', 'auto', 'scroll'].includes(getComputedStyle(element).overflowX);
    const cut = (element, inside, slack) => {  // by an ancestor that hides what sticks out of it
        for (let around = element.parentElement; around !== inside; around = around.parentElement) {
            if (!hides(around)) continue;
            const a = box(element), b = box(around);
            if (a.left < b.left - slack || a.right > b.right + slack || a.top < b.top - slack || a.bottom > b.bottom + slack)
                return true;
        }
        return false;
    };
    const main = document.querySelector('[data-testid=stMain]');
    for (const element of main.querySelectorAll('*'))
        if (shown(element) && box(element).right > window.innerWidth + 1 && !cut(element, main, 1)) {
            found.push(`sticks out: ${element.tagName} ${element.getAttribute('data-testid')} ${element.className} ${element.textContent.slice(0, 40)}`);
            break;
        }
    for (const chart of main.querySelectorAll('[data-testid=stVegaLiteChart]')) {
        const name = (chart.getAttribute('aria-label') || '').slice(0, 40);
        if (!chart.querySelector('svg')) found.push(`not drawn: ${name}`);
        const texts = [...chart.querySelectorAll('svg text')].filter(text =>
            text.textContent.trim() && shown(text) && parseFloat(getComputedStyle(text).fontSize) > 0);
        for (const text of texts)
            if (cut(text, main, 5)) found.push(`cut: "${text.textContent}" of ${name}`);
        texts.forEach((one, i) => texts.slice(i + 1).forEach(other => {
            const a = box(one), b = box(other);
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (wide > 2 && high > 4) found.push(`"${one.textContent}" lies on "${other.textContent}" of ${name}`);
        }));
    }
    for (const element of main.querySelectorAll('h1, h2, h3, button, [data-testid^=stMetric], [data-testid=stCaptionContainer], [data-testid=stAlert], label'))
        for (const part of [element, ...element.querySelectorAll('*')])
            if (shown(part) && hides(part) && part.scrollWidth > part.clientWidth + 1 && part.clientWidth > 20)
                found.push(`cut: ${element.textContent.slice(0, 60)}`);
    return [...new Set(found)];
}
